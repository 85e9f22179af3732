-- Who deleted stacks in the last 30 days, newest first. Older services send a type's display name (Stack Deleted) in place of its id.
SELECT
  time,
  org_id,
  event."user".githublogin AS login,
  event.tokenname AS token,
  event.sourceip AS address,
  event.description AS description
FROM pulumi_audit
WHERE day >= date_format(current_date - INTERVAL '30' DAY, '%Y-%m-%d')
  AND lower(replace(event.event, ' ', '-')) = 'stack-deleted'
ORDER BY time DESC, key
