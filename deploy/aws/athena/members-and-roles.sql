-- Who was let in, sent away, or given other rights in the last 90 days: members, teams, roles, and tokens made for machines.
SELECT
  time,
  org_id,
  event.event AS what,
  event."user".githublogin AS login,
  event.sourceip AS address,
  event.description AS description
FROM pulumi_audit
WHERE day >= date_format(current_date - INTERVAL '90' DAY, '%Y-%m-%d')
  AND (
    lower(replace(event.event, ' ', '-')) IN ('member-added', 'member-removed', 'member-role-changed')
    OR lower(replace(event.event, ' ', '-')) LIKE 'team-%'
    OR lower(replace(event.event, ' ', '-')) LIKE 'custom-role-%'
    OR lower(replace(event.event, ' ', '-')) LIKE 'organization-token-%'
  )
ORDER BY time DESC, key
