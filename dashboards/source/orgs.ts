// All organizations: is anything missing, and where. It fits three organizations as well as a thousand: what is drawn over time are sums
// and the worst ten, and the table has pages.

import { board } from './board.js';
import { below, critical, info, lines, stat, table, warning } from './panels.js';

const J = 'job=~"$job"';

export const orgs = board(
  'orgs',
  'Pulumi audit: all organizations',
  'Whether anything is missing, and where: everything that happened before delivered-until is accepted by that destination.',
  [
    {
      height: 6,
      panels: [
        stat({
          title: 'Delivered until: age of the oldest',
          says: 'How long ago the moment lies before which everything is accepted by every destination of every organization: minutes are normal, and from an hour on a person is called unless it comes nearer quickly.',
          width: 8,
          unit: 's',
          alerts: [critical('delivery-stale', 3600)],
          queries: [{ expr: `max(pulumi_audit:delivered_until_age_seconds{${J}})` }],
        }),
        stat({
          title: 'Organizations',
          says: 'How many organizations are forwarded; it changes only when somebody changes the configuration.',
          width: 4,
          unit: 'none',
          alerts: [critical('org-missing')],
          queries: [{ expr: `count(count by (org) (pulumi_audit_cursor_timestamp_seconds{${J}}))` }],
        }),
        stat({
          title: 'Paused',
          says: 'How many destinations and sources wait for a person: normally 0.',
          width: 4,
          unit: 'none',
          alerts: [critical('paused', 1)],
          queries: [{ expr: `sum(pulumi_audit_paused{${J}})` }],
        }),
        stat({
          title: 'Without a time yet',
          says: 'Destinations of which it is not known yet until when they have everything, so that the headline does not count them: normally 0 but for the first minutes of an organization.',
          width: 4,
          unit: 'none',
          queries: [{ expr: `count(pulumi_audit_delivered_until_timestamp_seconds{${J}} == 0) or vector(0)` }],
        }),
        stat({
          title: 'Forwarders that answer',
          says: 'How many forwarders Prometheus could scrape: normally as many as you run, and never none.',
          width: 4,
          unit: 'none',
          alerts: [below(critical('forwarder-absent', 1))],
          queries: [{ expr: `count(pulumi_audit_build_info{${J}}) or vector(0)` }],
        }),
      ],
    },
    {
      height: 4,
      panels: [
        stat({
          title: 'Longest without a sweep',
          says: 'How long ago the last good sweep ended in the organization where that is longest: normally a poll interval.',
          width: 4,
          unit: 's',
          alerts: [critical('sweep-stale', 1800)],
          queries: [{ expr: `max(pulumi_audit:sweep_age_seconds{${J}})` }],
        }),
        stat({
          title: 'Farthest back unread',
          says: 'How long ago the oldest moment lies that may not have been read: minutes are normal, more while an organization catches up.',
          width: 4,
          unit: 's',
          alerts: [critical('cursor-far-behind', 604800)],
          queries: [{ expr: `max(pulumi_audit:cursor_age_seconds{${J}})` }],
        }),
        stat({
          title: 'Fullest journal',
          says: 'The largest part of its journal that the undelivered events of one organization fill: normally next to nothing.',
          width: 4,
          unit: 'percentunit',
          decimals: 1,
          alerts: [warning('journal-growing', 0.25), critical('journal-full-soon', 0.9)],
          queries: [{ expr: `max(pulumi_audit:journal_fill_ratio{${J}})` }],
        }),
        stat({
          title: 'Newly damaged (1 d)',
          says: 'Seconds of all organizations that were found too dense to be read whole within a day: normally 0.',
          width: 4,
          unit: 'none',
          alerts: [warning('damaged-seconds', 1)],
          queries: [
            {
              expr: `sum(clamp_min(pulumi_audit_coverage_damaged_seconds{${J}}
                - (pulumi_audit_coverage_damaged_seconds{${J}} offset 1d or pulumi_audit_coverage_damaged_seconds{${J}} * 0), 0))`,
            },
          ],
        }),
        stat({
          title: 'Newly in quarantine (6 h)',
          says: 'Events that a destination refused for good within six hours: normally 0.',
          width: 4,
          unit: 'none',
          decimals: 0,
          alerts: [warning('quarantine', 1)],
          queries: [{ expr: `round(sum(increase(pulumi_audit_quarantined_events_total{${J}}[6h])))` }],
        }),
        stat({
          title: 'Next secret ends in',
          says: 'How long the secret lasts that ends first, of those whose end is known: more than two weeks is normal.',
          width: 4,
          unit: 's',
          noValue: 'not known',
          alerts: [below(warning('credential-expiring', 1209600))],
          queries: [{ expr: `min(pulumi_audit_credential_secret_expiry_timestamp_seconds{${J}}) - time()` }],
        }),
      ],
    },
    {
      height: 9,
      panels: [
        lines({
          title: 'Delivered until: age of the oldest ten',
          says: 'The ten destinations that are farthest behind: flat lines of some minutes are normal, a line that climbs by an hour an hour stands still.',
          width: 12,
          unit: 's',
          min: 0,
          alerts: [critical('delivery-stale', 3600)],
          queries: [
            { expr: `topk(10, max by (org, destination) (pulumi_audit:delivered_until_age_seconds{${J}}))`, name: '{{org}} → {{destination}}' },
          ],
        }),
        lines({
          title: 'Events: new, and delivered to each destination',
          says: 'New events a second and those that each kind of destination accepted: normally the lines run together, and a gap between them fills the journal.',
          width: 12,
          unit: 'eps',
          min: 0,
          queries: [
            { expr: `sum(pulumi_audit:events_new:rate5m{${J}})`, name: 'new' },
            { expr: `sum by (destination) (pulumi_audit:delivered_events:rate5m{${J}})`, name: '→ {{destination}}' },
          ],
        }),
        lines({
          title: 'Backlog',
          says: 'Events that are journaled and not accepted yet by a destination: normally near 0, and falling after an outage.',
          width: 12,
          unit: 'short',
          min: 0,
          stacked: true,
          alerts: [warning('journal-growing')],
          queries: [{ expr: `sum by (destination) (pulumi_audit_backlog_events{${J}})`, name: '{{destination}}' }],
        }),
        lines({
          title: 'Who waits, and why',
          says: 'How many sources and destinations wait by themselves or are paused, by reason: normally none, and those that wait need nobody.',
          width: 12,
          unit: 'short',
          min: 0,
          stacked: true,
          alerts: [critical('paused'), warning('throttled')],
          queries: [
            { expr: `sum by (reason) (pulumi_audit_waiting{${J}}) > 0`, name: 'waits: {{reason}}' },
            { expr: `sum by (reason) (pulumi_audit_paused{${J}}) > 0`, name: 'paused: {{reason}}' },
          ],
        }),
      ],
    },
    {
      height: 10,
      panels: [
        table({
          title: 'Destinations',
          says: 'Every destination of every organization, oldest first; a click on an organization leads to its own dashboard.',
          width: 12,
          unit: 'none',
          labels: ['org', 'destination'],
          sort: 'Delivered until: age',
          alerts: [critical('delivery-stale', 3600)],
          columns: { 'Delivered until: age': { unit: 's', judged: true }, Backlog: { unit: 'short' } },
          queries: [
            { expr: `max by (org, destination) (pulumi_audit:delivered_until_age_seconds{${J}})`, name: 'Delivered until: age' },
            { expr: `sum by (org, destination) (pulumi_audit_backlog_events{${J}})`, name: 'Backlog' },
          ],
        }),
        table({
          title: 'Alerts that fire',
          says: 'What the rules in deploy/prometheus say right now: normally nothing.',
          width: 12,
          unit: 'none',
          labels: ['severity', 'alertname', 'org', 'destination'],
          sort: 'severity',
          ascending: true,
          alerts: [{ page: 'README', color: 'red' }],
          queries: [
            { expr: 'max by (severity, alertname, org, destination) (ALERTS{alertname=~"PulumiAudit.+",alertstate="firing"})' },
          ],
        }),
        table({
          title: 'Paused, and why',
          says: 'What waits for a person, and why: normally nothing; the remedy stands on the status page.',
          width: 8,
          unit: 'none',
          labels: ['org', 'destination', 'reason'],
          sort: 'org',
          ascending: true,
          alerts: [critical('paused')],
          queries: [{ expr: `max by (org, destination, reason) (pulumi_audit_paused{${J}} == 1)` }],
        }),
        table({
          title: 'Not read yet',
          says: 'The twenty organizations with most seconds between their start and now that were not read yet: normally nothing, or falling while an organization catches up.',
          width: 8,
          unit: 's',
          labels: ['org'],
          sort: 'Missing',
          alerts: [warning('hole-not-closing')],
          queries: [{ expr: `topk(20, max by (org) (pulumi_audit_coverage_gap_seconds{${J}} > 0))`, name: 'Missing' }],
        }),
        table({
          title: 'Quarantined and odd events (6 h)',
          says: 'Events within six hours that a destination refused for good, or that were not as documented, by kind: normally nothing.',
          width: 8,
          unit: 'short',
          decimals: 0,
          labels: ['org', 'destination', 'reason', 'kind'],
          sort: 'Refused',
          alerts: [warning('quarantine'), info('schema-anomalies')],
          queries: [
            {
              expr: `round(sum by (org, destination, reason) (increase(pulumi_audit_quarantined_events_total{${J}}[6h]))) > 0`,
              name: 'Refused',
            },
            { expr: `round(sum by (org, kind) (increase(pulumi_audit_schema_anomalies_total{${J}}[6h]))) > 0`, name: 'Odd' },
          ],
        }),
      ],
    },
  ],
);
