-- The claims of the archive, one row for each object that was ever written. Put in your bucket, prefix and the ids of your orgs.
CREATE EXTERNAL TABLE IF NOT EXISTS pulumi_audit_claims (
  `version` int,
  `id` string,
  `org` string,
  `chunk` bigint,
  `count` bigint COMMENT 'events in the object',
  `mode` string,
  `key` string COMMENT 'of the object, below the prefix',
  `sha256` string COMMENT 'of the lines of the object',
  `previous` string COMMENT 'SHA-256 of the claim before',
  `first_time` string,
  `last_time` string,
  `window` string,
  `instance` string,
  `forwarder` string
)
PARTITIONED BY (
  `org_id` string
)
ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'
STORED AS TEXTFILE
LOCATION 's3://acme-audit/pulumi/_chain/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.org_id.type' = 'enum',
  'projection.org_id.values' = 'acme',
  'storage.location.template' = 's3://acme-audit/pulumi/_chain/org=${org_id}/'
)
