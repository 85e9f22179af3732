-- Addresses with failed logins and refused tokens in the last 7 days. Pulumi marks a failed login, and an environment that was opened
-- without permission, by their type alone: the mark authFailure does not show them.
SELECT
  event.sourceip AS address,
  count(*) AS failures,
  count(DISTINCT event."user".githublogin) AS logins,
  min(time) AS first_time,
  max(time) AS last_time
FROM pulumi_audit
WHERE day >= date_format(current_date - INTERVAL '7' DAY, '%Y-%m-%d')
  AND (
    event.authfailure
    OR lower(replace(event.event, ' ', '-')) IN ('user-login-failed', 'environment-unauthorized-open')
  )
GROUP BY event.sourceip
ORDER BY failures DESC, address
