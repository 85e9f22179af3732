# What is allowed, what becomes of objects, and the section for the org files. Nothing here asks AWS or names a resource: local.here
# and local.key_arn, which do, stand in main.tf. So a test evaluates this file alone, and holds it against cloudformation.yaml.

locals {
  bucket_arn  = "arn:${local.here.partition}:s3:::${var.bucket_name}"
  objects_arn = "${local.bucket_arn}/${var.prefix}/*"

  locks        = var.object_lock_mode != "NONE"
  writer_locks = local.locks && var.writer_locks
  kms          = var.encryption == "aws:kms"
  makes_key    = local.kms && var.kms_key_arn == ""

  bucket_policy = {
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyOverTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  }

  key_policy = {
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "RulesOfThisAccount"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.here.partition}:iam::${local.here.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
    ]
  }

  # As JSON, since the branches differ in form.
  role_policy = {
    Version = "2012-10-17"
    Statement = concat(
      [
        jsonencode({
          Sid      = "Objects"
          Effect   = "Allow"
          Action   = ["s3:PutObject", "s3:GetObject"]
          Resource = local.objects_arn
        }),
        jsonencode({
          Sid       = "List"
          Effect    = "Allow"
          Action    = "s3:ListBucket"
          Resource  = local.bucket_arn
          Condition = { StringLike = { "s3:prefix" = "${var.prefix}/*" } }
        }),
      ],
      local.writer_locks ? [
        jsonencode({
          Sid      = "Locks"
          Effect   = "Allow"
          Action   = ["s3:PutObjectRetention", "s3:GetObjectRetention"]
          Resource = local.objects_arn
        }),
        jsonencode({
          Sid      = "SeesTheLock"
          Effect   = "Allow"
          Action   = "s3:GetBucketObjectLockConfiguration"
          Resource = local.bucket_arn
        }),
      ] : [],
      local.kms ? [
        jsonencode({
          Sid       = "Key"
          Effect    = "Allow"
          Action    = ["kms:GenerateDataKey", "kms:Decrypt"]
          Resource  = local.key_arn
          Condition = { StringEquals = { "kms:ViaService" = "s3.${local.here.region}.${local.here.dns_suffix}" } }
        }),
      ] : [],
    )
  }

  issuer = element(split(":oidc-provider/", "${var.oidc_provider_arn}:oidc-provider/"), 1)

  trusts = {
    ec2 = jsonencode({
      Sid       = "Instance"
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    })
    ecs = jsonencode({
      Sid       = "Task"
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.here.account_id } }
    })
    irsa = jsonencode({
      Sid       = "ServiceAccount"
      Effect    = "Allow"
      Principal = { Federated = var.oidc_provider_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = {
          "${local.issuer}:aud" = "sts.amazonaws.com"
          "${local.issuer}:sub" = "system:serviceaccount:${var.namespace}:${var.service_account}"
        }
      }
    })
    pod_identity = jsonencode({
      Sid       = "Pod"
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = {
        StringEquals = {
          "aws:RequestTag/kubernetes-namespace"       = var.namespace
          "aws:RequestTag/kubernetes-service-account" = var.service_account
        }
      }
    })
    principal = jsonencode(merge(
      {
        Sid       = "Principal"
        Effect    = "Allow"
        Principal = { AWS = var.trusted_principal_arn }
        Action    = "sts:AssumeRole"
      },
      var.external_id == "" ? {} : { Condition = { StringEquals = { "sts:ExternalId" = var.external_id } } },
    ))
    roles_anywhere = jsonencode({
      Sid       = "Certificate"
      Effect    = "Allow"
      Principal = { Service = "rolesanywhere.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
      Condition = {
        ArnEquals    = { "aws:SourceArn" = var.trust_anchor_arn }
        StringEquals = { "aws:PrincipalTag/x509Subject/CN" = var.certificate_name }
      }
    })
  }

  role_policy_json  = "{\"Version\":\"${local.role_policy.Version}\",\"Statement\":[${join(",", local.role_policy.Statement)}]}"
  trust_policy_json = "{\"Version\":\"2012-10-17\",\"Statement\":[${local.trusts[var.trust]}]}"

  # Nothing but heartbeats is ever deleted. Objects with events alone move: the claims below _chain/ are read again, and stay where they can be.
  lifecycle_rules = concat(
    [
      { id = "incomplete-uploads", prefix = "", abort_days = 7, expire_days = 0, markers = false, move_days = 0, noncurrent_days = 0 },
      { id = "heartbeats", prefix = "${var.prefix}/_heartbeat/", abort_days = 0, expire_days = var.heartbeat_days, markers = false, move_days = 0, noncurrent_days = 1 },
      { id = "markers-of-heartbeats", prefix = "${var.prefix}/_heartbeat/", abort_days = 0, expire_days = 0, markers = true, move_days = 0, noncurrent_days = 0 },
    ],
    var.transition_days == 0 ? [] : [
      { id = "move-objects", prefix = "${var.prefix}/org=", abort_days = 0, expire_days = 0, markers = false, move_days = var.transition_days, noncurrent_days = 0 },
    ],
    var.noncurrent_days == 0 ? [] : [
      { id = "end-versions", prefix = "${var.prefix}/", abort_days = 0, expire_days = 0, markers = false, move_days = 0, noncurrent_days = var.noncurrent_days },
    ],
  )

  org_file = join("", concat(
    [
      <<-TOML
      [s3]
      bucket = "${var.bucket_name}"
      prefix = "${var.prefix}"
      region = "${local.here.region}"
      expected_bucket_owner = "${local.here.account_id}"
      sse = "${var.encryption}"
      TOML
    ],
    local.kms ? ["kms_key_id = \"${local.key_arn}\"\n"] : [],
    var.trust == "principal" ? ["role_arn = \"${local.here.role_arn}\"\n"] : [],
    var.trust == "principal" && var.external_id != "" ? ["external_id = \"${var.external_id}\"\n"] : [],
    local.writer_locks ? ["object_lock = { mode = \"${var.object_lock_mode}\", retain = \"${var.object_lock_days}d\" }\n"] : [],
  ))
}
