// One organization: what the status page says of it, over time.

import { board } from './board.js';
import { below, critical, info, lines, stat, table, timeline, warning } from './panels.js';

const O = 'job=~"$job",org="$org"';

export const org = board(
  'org',
  'Pulumi audit: one organization',
  'Where one organization stands: read until when, delivered until when, and what is on its way.',
  [
    {
      height: 5,
      panels: [
        stat({
          title: 'Delivered until: age',
          says: 'How long ago the moment lies before which the destination has accepted everything: minutes are normal.',
          width: 9,
          unit: 's',
          alerts: [critical('delivery-stale', 3600)],
          queries: [{ expr: `max by (destination) (pulumi_audit:delivered_until_age_seconds{${O}})`, name: '{{destination}}' }],
        }),
        stat({
          title: 'Read until: age',
          says: 'How long ago the moment lies before which everything is read and journaled: minutes are normal.',
          width: 3,
          unit: 's',
          alerts: [critical('cursor-far-behind', 604800)],
          queries: [{ expr: `max(pulumi_audit:cursor_age_seconds{${O}})` }],
        }),
        stat({
          title: 'Last good sweep',
          says: 'How long ago a sweep ended well, whether or not there were events: normally a poll interval.',
          width: 3,
          unit: 's',
          alerts: [critical('sweep-stale', 1800)],
          queries: [{ expr: `max(pulumi_audit:sweep_age_seconds{${O}})` }],
        }),
        stat({
          title: 'Journal filled',
          says: 'The part of its journal that undelivered events fill: normally next to nothing, and at all of it collection waits.',
          width: 3,
          unit: 'percentunit',
          decimals: 1,
          alerts: [warning('journal-growing', 0.25), critical('journal-full-soon', 0.9)],
          queries: [{ expr: `max(pulumi_audit:journal_fill_ratio{${O}})` }],
        }),
        stat({
          title: 'Paused',
          says: 'How many of its destinations, the source included, wait for a person: normally 0.',
          width: 3,
          unit: 'none',
          alerts: [critical('paused', 1)],
          queries: [{ expr: `sum(pulumi_audit_paused{${O}})` }],
        }),
        stat({
          title: 'Next secret ends in',
          says: 'How long the secret lasts that ends first, of those whose end is known: more than two weeks is normal.',
          width: 3,
          unit: 's',
          noValue: 'not known',
          alerts: [below(warning('credential-expiring', 1209600))],
          queries: [{ expr: `min(pulumi_audit_credential_secret_expiry_timestamp_seconds{${O}}) - time()` }],
        }),
      ],
    },
    {
      height: 4,
      panels: [
        stat({
          title: 'New events (1 d)',
          says: 'Events that were journaled within a day: what is normal depends on the organization.',
          width: 4,
          unit: 'short',
          decimals: 0,
          queries: [{ expr: `sum(increase(pulumi_audit_events_new_total{${O}}[1d]))` }],
        }),
        stat({
          title: 'Over 10 min late (1 d)',
          says: 'Events of a day that became visible more than ten minutes after they happened, close to the fifteen that a head sweep looks back: normally 0.',
          width: 4,
          unit: 'none',
          decimals: 0,
          alerts: [warning('lateness-near-overlap', 1)],
          queries: [
            {
              expr: `round(sum(increase(pulumi_audit_event_lateness_seconds_count{${O}}[1d])
                - ignoring (le) increase(pulumi_audit_event_lateness_seconds_bucket{${O},le="600"}[1d])))`,
            },
          ],
        }),
        stat({
          title: 'Not read yet',
          says: 'Seconds between start and tip that were not read: normally 0, or falling while it catches up.',
          width: 4,
          unit: 's',
          alerts: [warning('hole-not-closing')],
          queries: [{ expr: `sum(pulumi_audit_coverage_gap_seconds{${O}})` }],
        }),
        stat({
          title: 'Due another look',
          says: 'Seconds that were read and will be read again for late events: normally as long as the last of `rescan_after`, a day.',
          width: 4,
          unit: 's',
          queries: [{ expr: `sum(pulumi_audit_coverage_unsettled_seconds{${O}})` }],
        }),
        stat({
          title: 'Damaged seconds',
          says: 'Seconds too dense to be read whole, ever: normally 0; the alert is about new ones.',
          width: 4,
          unit: 'none',
          alerts: [warning('damaged-seconds')],
          queries: [{ expr: `sum(pulumi_audit_coverage_damaged_seconds{${O}})` }],
        }),
        stat({
          title: 'Newly in quarantine (6 h)',
          says: 'Events that a destination refused for good within six hours: normally 0.',
          width: 4,
          unit: 'none',
          decimals: 0,
          alerts: [warning('quarantine', 1)],
          queries: [{ expr: `round(sum(increase(pulumi_audit_quarantined_events_total{${O}}[6h])))` }],
        }),
      ],
    },
    {
      height: 8,
      panels: [
        lines({
          title: 'Ages: delivered and read until',
          says: 'How far each destination and the reading are behind the present: flat lines of some minutes are normal, steps back are late events on their way.',
          width: 12,
          unit: 's',
          min: 0,
          alerts: [critical('delivery-stale', 3600)],
          queries: [
            { expr: `max by (destination) (pulumi_audit:delivered_until_age_seconds{${O}})`, name: '→ {{destination}}' },
            { expr: `max(pulumi_audit:cursor_age_seconds{${O}})`, name: 'read' },
          ],
        }),
        timeline({
          title: 'Works, waits, paused',
          says: 'The state of the source and of each destination: green is normal, yellow needs nobody, red waits for a person.',
          width: 12,
          unit: 'none',
          alerts: [critical('paused'), warning('throttled')],
          states: ['works', 'waits', 'paused'],
          queries: [
            {
              expr: `2 * sum by (destination) (pulumi_audit_paused{${O}})
                + clamp_max(sum by (destination) (pulumi_audit_waiting{${O}}), 1)`,
              name: '{{destination}}',
            },
          ],
        }),
        lines({
          title: 'Events: new, late, and delivered',
          says: 'New events a second, those of them that became visible late, and those that each destination accepted: normally delivered follows new within seconds.',
          width: 12,
          unit: 'eps',
          min: 0,
          queries: [
            { expr: `sum(pulumi_audit:events_new:rate5m{${O}})`, name: 'new' },
            { expr: `sum(rate(pulumi_audit_events_late_total{${O}}[5m]))`, name: 'late' },
            { expr: `sum by (destination) (pulumi_audit:delivered_events:rate5m{${O}})`, name: '→ {{destination}}' },
          ],
        }),
        lines({
          title: 'Backlog',
          says: 'Events that are journaled and not accepted yet by the destination: normally near 0, and falling after an outage.',
          width: 12,
          unit: 'short',
          min: 0,
          alerts: [warning('journal-growing')],
          queries: [{ expr: `sum by (destination) (pulumi_audit_backlog_events{${O}})`, name: '{{destination}}' }],
        }),
        lines({
          title: 'From an event to its acceptance (95 %)',
          says: 'Within what time 95 of 100 events were accepted, counted from the moment they happened: normally a poll interval and a little, more while it catches up.',
          width: 12,
          unit: 's',
          min: 0,
          queries: [
            {
              expr: `histogram_quantile(0.95, sum by (le, destination) (rate(pulumi_audit_end_to_end_latency_seconds_bucket{${O}}[15m])))`,
              name: '{{destination}}',
            },
          ],
        }),
        lines({
          title: 'Deliveries by outcome',
          says: 'Tries to deliver a chunk: acknowledged is normal, throttled and ambiguous are tried again, refused goes into quarantine, failed pauses.',
          width: 12,
          unit: 'ops',
          min: 0,
          stacked: true,
          alerts: [warning('duplicate-surge')],
          queries: [
            {
              expr: `sum by (destination, outcome) (rate(pulumi_audit_deliveries_total{${O}}[$__rate_interval])) > 0`,
              name: '{{destination}} {{outcome}}',
            },
          ],
        }),
        lines({
          title: 'Sweeps by kind and outcome',
          says: 'Sweeps a second: head sweeps come every poll interval, rescans with them, catch-up only at the beginning or after an absence, failed ones are tried again.',
          width: 8,
          unit: 'ops',
          min: 0,
          alerts: [warning('sweep-stuck')],
          queries: [
            {
              expr: `sum by (kind, outcome) (rate(pulumi_audit_sweeps_total{${O}}[$__rate_interval])) > 0`,
              name: '{{kind}} {{outcome}}',
            },
          ],
        }),
        lines({
          title: 'Requests to Pulumi by answer',
          says: 'Requests a second by status: 200 is normal, 429 slows down, 401 and 403 pause the source.',
          width: 8,
          unit: 'reqps',
          min: 0,
          queries: [{ expr: `sum by (code) (rate(pulumi_audit_source_requests_total{${O}}[$__rate_interval])) > 0`, name: '{{code}}' }],
        }),
        lines({
          title: 'Journal',
          says: 'Bytes that are kept, and those of them that some destination has not accepted yet: normally next to none of the second kind.',
          width: 8,
          unit: 'bytes',
          min: 0,
          alerts: [warning('journal-growing'), critical('journal-full-soon')],
          queries: [
            { expr: `sum(pulumi_audit_journal_bytes{${O}})`, name: 'kept' },
            { expr: `sum(pulumi_audit_journal_unacknowledged_bytes{${O}})`, name: 'not accepted yet' },
          ],
        }),
        table({
          title: 'Credentials',
          says: 'Which configured secret was accepted last, how long it lasts where that is known, and how often it was not given or refused within six hours: normally never.',
          width: 12,
          unit: 'none',
          labels: ['credential', 'slot'],
          sort: 'credential',
          ascending: true,
          alerts: [below(warning('credential-expiring', 1209600))],
          columns: { 'Secret ends in': { unit: 's', judged: true }, 'Failed (6 h)': { unit: 'short' } },
          queries: [
            { expr: `max by (credential, slot) (pulumi_audit_credential_in_use{${O}} == 1)` },
            {
              expr: `min by (credential) (pulumi_audit_credential_secret_expiry_timestamp_seconds{${O}}) - time()`,
              name: 'Secret ends in',
            },
            {
              expr: `sum by (credential) (increase(pulumi_audit_credential_refreshes_total{${O},outcome="failed"}[6h]))`,
              name: 'Failed (6 h)',
            },
          ],
        }),
        table({
          title: 'Quarantined and odd events (6 h)',
          says: 'Events within six hours that a destination refused for good, or that were not as documented, by kind: normally nothing.',
          width: 12,
          unit: 'short',
          decimals: 0,
          labels: ['destination', 'reason', 'kind'],
          sort: 'Refused',
          alerts: [warning('quarantine'), info('schema-anomalies')],
          queries: [
            {
              expr: `round(sum by (destination, reason) (increase(pulumi_audit_quarantined_events_total{${O}}[6h]))) > 0`,
              name: 'Refused',
            },
            { expr: `round(sum by (kind) (increase(pulumi_audit_schema_anomalies_total{${O}}[6h]))) > 0`, name: 'Odd' },
          ],
        }),
      ],
    },
  ],
  { oneOrg: true },
);
