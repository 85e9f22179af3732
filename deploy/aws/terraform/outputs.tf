output "bucket" {
  description = "The bucket."
  value       = aws_s3_bucket.archive.bucket
}

output "role_arn" {
  description = "The role of the forwarder."
  value       = aws_iam_role.forwarder.arn
}

output "instance_profile" {
  description = "What an EC2 instance is given to be this role."
  value       = one(aws_iam_instance_profile.forwarder[*].name)
}

output "kms_key_arn" {
  description = "The key that the archive is encrypted with."
  value       = local.kms ? local.key_arn : null
}

output "org_file" {
  description = "The section for the file of each org."
  value       = local.org_file
}
