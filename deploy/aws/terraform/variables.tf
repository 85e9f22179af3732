variable "bucket_name" {
  description = "Name of the bucket to make."
  type        = string
}

variable "prefix" {
  description = "What the name of every object begins with, without slashes at its ends."
  type        = string
  default     = "pulumi"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-][A-Za-z0-9_=.-]*(/[A-Za-z0-9_-][A-Za-z0-9_=.-]*)*$", var.prefix))
    error_message = "Give a prefix of plain characters, without slashes at its ends."
  }
}

variable "object_lock_mode" {
  description = "How every new object is locked: NONE, GOVERNANCE, COMPLIANCE. COMPLIANCE cannot be taken back by anybody. NONE locks only what is asked for by the writer."
  type        = string
  default     = "GOVERNANCE"

  validation {
    condition     = contains(["NONE", "GOVERNANCE", "COMPLIANCE"], var.object_lock_mode)
    error_message = "One of NONE, GOVERNANCE, COMPLIANCE."
  }
}

variable "object_lock_days" {
  description = "For how many days from its upload on."
  type        = number
  default     = 365
}

variable "writer_locks" {
  description = "Whether the forwarder itself asks for the lock of each object (object_lock), and may therefore set and read locks."
  type        = bool
  default     = false
}

variable "encryption" {
  description = "AES256 is S3's own keys, aws:kms a key of KMS."
  type        = string
  default     = "AES256"

  validation {
    condition     = contains(["AES256", "aws:kms"], var.encryption)
    error_message = "One of AES256, aws:kms."
  }
}

variable "kms_key_arn" {
  description = "With aws:kms, the ARN of a key that exists. Empty makes one."
  type        = string
  default     = ""
}

variable "transition_days" {
  description = "After how many days objects with events move to transition_storage_class. 0 is never. S3 leaves objects below 128 KB where they are."
  type        = number
  default     = 0
}

variable "transition_storage_class" {
  description = "STANDARD_IA, INTELLIGENT_TIERING, GLACIER_IR, GLACIER or DEEP_ARCHIVE. Athena reads nothing that lies in the last two."
  type        = string
  default     = "GLACIER_IR"
}

variable "noncurrent_days" {
  description = "After how many days a version that somebody deleted or replaced goes for good. 0 is never."
  type        = number
  default     = 0
}

variable "heartbeat_days" {
  description = "After how many days heartbeats are deleted. Nothing else ever is."
  type        = number
  default     = 30
}

variable "access_log_bucket" {
  description = "A bucket for S3's log of who asked for what. Empty keeps none."
  type        = string
  default     = ""
}

variable "role_name" {
  description = "Name of the role to make."
  type        = string
  default     = "pulumi-audit-forwarder"
}

variable "trust" {
  description = "Who may take the role: an EC2 instance (ec2), an ECS task (ecs), a service account of EKS (irsa or pod_identity), a user or role by its ARN (principal), or a machine elsewhere with a certificate (roles_anywhere)."
  type        = string
  default     = "ec2"

  validation {
    condition     = contains(["ec2", "ecs", "irsa", "pod_identity", "principal", "roles_anywhere"], var.trust)
    error_message = "One of ec2, ecs, irsa, pod_identity, principal, roles_anywhere."
  }
}

variable "oidc_provider_arn" {
  description = "For irsa, the ARN of the cluster's OIDC provider in IAM."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "For irsa and pod_identity, the namespace of the pod."
  type        = string
  default     = "audit"
}

variable "service_account" {
  description = "For irsa and pod_identity, the service account of the pod."
  type        = string
  default     = "pulumi-audit-forwarder"
}

variable "trusted_principal_arn" {
  description = "For principal, the ARN of the user or role that may take the role, of this account or another."
  type        = string
  default     = ""
}

variable "external_id" {
  description = "For principal, what it has to name as external id. Empty asks for none."
  type        = string
  default     = ""
}

variable "trust_anchor_arn" {
  description = "For roles_anywhere, the ARN of the trust anchor."
  type        = string
  default     = ""
}

variable "certificate_name" {
  description = "For roles_anywhere, the common name in the machine's certificate."
  type        = string
  default     = "pulumi-audit-forwarder"
}
