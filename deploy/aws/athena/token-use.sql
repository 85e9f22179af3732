-- How often each access token was used on each day of the last 30, and from how many addresses.
SELECT
  day,
  org_id,
  event.tokenid AS token_id,
  max(event.tokenname) AS token,
  count(*) AS events,
  count(DISTINCT event.sourceip) AS addresses
FROM pulumi_audit
WHERE day >= date_format(current_date - INTERVAL '30' DAY, '%Y-%m-%d')
  AND event.tokenid <> ''
GROUP BY day, org_id, event.tokenid
ORDER BY day DESC, events DESC, token_id
