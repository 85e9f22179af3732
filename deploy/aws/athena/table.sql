-- The events of the archive, one row for each. Put in your bucket, prefix and the ids of your orgs (the names of their files in orgs/),
-- and the first day that you have. A partition costs nothing until a query asks for it: they follow from the names of the objects.
--
-- A line's fields are in docs/formats.md. Fields of an event that are not named here are in the archive all the same; add them at the end.
CREATE EXTERNAL TABLE IF NOT EXISTS pulumi_audit (
  `key` string COMMENT 'the same wherever the event was delivered',
  `org` string COMMENT 'the name of the organization at Pulumi when it was collected',
  `id` string COMMENT 'the id of the org, which never changes',
  `time` string COMMENT 'RFC 3339, UTC; null where the event has no plausible time',
  `chunk` bigint COMMENT 'the number of the object, and of its claim',
  `mode` string COMMENT 'how it was collected: live, late, catchup, backfill, replay',
  `event` struct<
    `timestamp`:bigint,
    `sourceip`:string,
    `event`:string,
    `description`:string,
    `user`:struct<`name`:string,`githublogin`:string,`avatarurl`:string,`email`:string>,
    `tokenid`:string,
    `tokenname`:string,
    `actorname`:string,
    `actorurn`:string,
    `reqorgadmin`:boolean,
    `reqstackadmin`:boolean,
    `authfailure`:boolean
  > COMMENT 'as Pulumi sent it',
  `event_base64` string COMMENT 'in place of event, where that is not UTF-8'
)
PARTITIONED BY (
  `org_id` string COMMENT 'the same as id',
  `day` string COMMENT 'the UTC date of the event, as 2026-11-21'
)
ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'
WITH SERDEPROPERTIES ('ignore.malformed.json' = 'true')
STORED AS TEXTFILE
LOCATION 's3://acme-audit/pulumi/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.org_id.type' = 'enum',
  'projection.org_id.values' = 'acme',
  'projection.day.type' = 'date',
  'projection.day.format' = 'yyyy-MM-dd',
  'projection.day.range' = '2026-01-01,NOW+1DAYS',
  'projection.day.interval' = '1',
  'projection.day.interval.unit' = 'DAYS',
  'storage.location.template' = 's3://acme-audit/pulumi/org=${org_id}/date=${day}/'
)
