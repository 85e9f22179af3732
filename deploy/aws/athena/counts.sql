-- Each day's events as they lie there, beside what the claims say was written. A day with a difference has lost objects, or has objects
-- that were settled as void (docs/formats.md); `pulumi-audit-forwarder verify` says which. Asks for every object: leave the days in.
SELECT
  COALESCE(claimed.org_id, lying.org_id) AS org_id,
  COALESCE(claimed.day, lying.day) AS day,
  COALESCE(claimed.events, 0) AS claimed_events,
  COALESCE(lying.events, 0) AS events,
  COALESCE(lying.distinct_keys, 0) AS distinct_keys
FROM (
  SELECT org_id, regexp_extract(key, 'date=([0-9-]+)/', 1) AS day, sum(count) AS events
  FROM pulumi_audit_claims
  WHERE regexp_extract(key, 'date=([0-9-]+)/', 1) >= date_format(current_date - INTERVAL '30' DAY, '%Y-%m-%d')
  GROUP BY 1, 2
) AS claimed
FULL OUTER JOIN (
  SELECT org_id, day, count(*) AS events, count(DISTINCT key) AS distinct_keys
  FROM pulumi_audit
  WHERE day >= date_format(current_date - INTERVAL '30' DAY, '%Y-%m-%d')
  GROUP BY 1, 2
) AS lying
  ON claimed.org_id = lying.org_id AND claimed.day = lying.day
ORDER BY day DESC, org_id
