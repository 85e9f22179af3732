# Bucket and role for pulumi-audit-forwarder: the archive is versioned, locked, encrypted and reached over TLS only; the role may put, get
# and list below one prefix, and delete nothing. Explained in docs/aws.md; the same as cloudformation.yaml.

data "aws_caller_identity" "here" {}

data "aws_partition" "here" {}

locals {
  # With local.key_arn all that policies.tf has to be told.
  here = {
    account_id = data.aws_caller_identity.here.account_id
    partition  = data.aws_partition.here.partition
    dns_suffix = data.aws_partition.here.dns_suffix
    region     = aws_s3_bucket.archive.region
    role_arn   = "arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.here.account_id}:role/${var.role_name}"
  }

  # By itself: the key's own policy asks for local.here.
  key_arn = local.makes_key ? one(aws_kms_key.archive[*].arn) : var.kms_key_arn
}

resource "aws_s3_bucket" "archive" {
  # checkov:skip=CKV_AWS_145:S3's own keys are the default, as a key of KMS costs for every object; encryption = "aws:kms" chooses one
  # checkov:skip=CKV_AWS_144:where a second copy may lie is the operator's to say; objects are created once, so replication can be added to the bucket at any time
  # checkov:skip=CKV2_AWS_62:nobody waits for an event of this bucket; the forwarder's metrics and heartbeats say what was written
  bucket              = var.bucket_name
  object_lock_enabled = true

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "archive" {
  bucket = aws_s3_bucket.archive.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "archive" {
  count  = local.locks ? 1 : 0
  bucket = aws_s3_bucket_versioning.archive.bucket

  rule {
    default_retention {
      mode = var.object_lock_mode
      days = var.object_lock_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "archive" {
  bucket = aws_s3_bucket.archive.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.encryption
      kms_master_key_id = local.kms ? local.key_arn : null
    }
    bucket_key_enabled = local.kms ? true : null
  }
}

resource "aws_s3_bucket_public_access_block" "archive" {
  bucket                  = aws_s3_bucket.archive.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "archive" {
  bucket = aws_s3_bucket.archive.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_logging" "archive" {
  count         = var.access_log_bucket == "" ? 0 : 1
  bucket        = aws_s3_bucket.archive.id
  target_bucket = var.access_log_bucket
  target_prefix = "${var.bucket_name}/"
}

resource "aws_s3_bucket_lifecycle_configuration" "archive" {
  bucket = aws_s3_bucket_versioning.archive.bucket

  dynamic "rule" {
    for_each = local.lifecycle_rules

    content {
      id     = rule.value.id
      status = "Enabled"

      filter {
        prefix = rule.value.prefix
      }

      dynamic "abort_incomplete_multipart_upload" {
        for_each = rule.value.abort_days == 0 ? [] : [rule.value.abort_days]

        content {
          days_after_initiation = abort_incomplete_multipart_upload.value
        }
      }

      dynamic "expiration" {
        for_each = rule.value.expire_days == 0 ? [] : [rule.value.expire_days]

        content {
          days = expiration.value
        }
      }

      dynamic "expiration" {
        for_each = rule.value.markers ? [true] : []

        content {
          expired_object_delete_marker = true
        }
      }

      dynamic "transition" {
        for_each = rule.value.move_days == 0 ? [] : [rule.value.move_days]

        content {
          days          = transition.value
          storage_class = var.transition_storage_class
        }
      }

      dynamic "noncurrent_version_expiration" {
        for_each = rule.value.noncurrent_days == 0 ? [] : [rule.value.noncurrent_days]

        content {
          noncurrent_days = noncurrent_version_expiration.value
        }
      }
    }
  }
}

resource "aws_s3_bucket_policy" "archive" {
  bucket = aws_s3_bucket_public_access_block.archive.bucket
  policy = jsonencode(local.bucket_policy)
}

resource "aws_kms_key" "archive" {
  count               = local.makes_key ? 1 : 0
  description         = "The archive in ${var.bucket_name}"
  enable_key_rotation = true
  policy              = jsonencode(local.key_policy)

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_iam_role" "forwarder" {
  name               = var.role_name
  description        = "pulumi-audit-forwarder writes its archive"
  assume_role_policy = local.trust_policy_json

  lifecycle {
    precondition {
      condition     = var.trust != "irsa" || var.oidc_provider_arn != ""
      error_message = "Trust irsa needs oidc_provider_arn."
    }
    precondition {
      condition     = var.trust != "principal" || var.trusted_principal_arn != ""
      error_message = "Trust principal needs trusted_principal_arn."
    }
    precondition {
      condition     = var.trust != "roles_anywhere" || var.trust_anchor_arn != ""
      error_message = "Trust roles_anywhere needs trust_anchor_arn."
    }
  }
}

resource "aws_iam_role_policy" "forwarder" {
  name   = "archive"
  role   = aws_iam_role.forwarder.id
  policy = local.role_policy_json
}

resource "aws_iam_instance_profile" "forwarder" {
  count = var.trust == "ec2" ? 1 : 0
  name  = var.role_name
  role  = aws_iam_role.forwarder.name
}
