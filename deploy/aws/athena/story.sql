-- Everything that one person did, and everything that names one stack, in the order in which it happened. Put in the login, the stack and
-- the days. Events without a plausible time lie under the day on which they were found, and come last.
SELECT
  time,
  org_id,
  event.event AS what,
  event."user".githublogin AS login,
  event.tokenname AS token,
  event.sourceip AS address,
  event.description AS description,
  key
FROM pulumi_audit
WHERE day >= date_format(current_date - INTERVAL '30' DAY, '%Y-%m-%d')
  AND (event."user".githublogin = 'ada' OR strpos(event.description, 'shop/prod') > 0)
ORDER BY time NULLS LAST, key
