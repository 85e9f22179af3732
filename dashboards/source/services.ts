// The services around the forwarder: Pulumi as the source, and the destinations. For the question whose fault it is.

import { board } from './board.js';
import { below, critical, lines, table, warning } from './panels.js';

const J = 'job=~"$job"';

const quantiles = (metric: string, range: string, by = '') =>
  [0.5, 0.95, 0.99].map((part) => ({
    expr: `histogram_quantile(${part}, sum by (le${by}) (rate(${metric}_bucket{${J}}[${range}])))`,
    name: `${part * 100} %`,
  }));

export const services = board(
  'services',
  'Pulumi audit: source and destinations',
  'How Pulumi, Azure and S3 answer, over all organizations: whose fault it is when something is slow.',
  [
    {
      heading: 'Source: Pulumi',
      height: 8,
      panels: [
        lines({
          title: 'Requests by answer',
          says: 'Requests a second by status: 200 is normal, 429 slows down, 5xx and timeouts are tried again, 401 and 403 pause that source.',
          width: 8,
          unit: 'reqps',
          min: 0,
          stacked: true,
          alerts: [critical('sweep-stale')],
          queries: [{ expr: `sum by (code) (rate(pulumi_audit_source_requests_total{${J}}[$__rate_interval])) > 0`, name: '{{code}}' }],
        }),
        lines({
          title: 'How long Pulumi takes',
          says: 'Within what time half, 95 and 99 of 100 requests were answered: below a second or two is normal.',
          width: 8,
          unit: 's',
          min: 0,
          queries: quantiles('pulumi_audit_source_request_duration_seconds', '$__rate_interval'),
        }),
        lines({
          title: 'Events read for each new one',
          says: 'How often an event is read on average until it is settled: six or seven times with the default intervals.',
          width: 8,
          unit: 'short',
          min: 0,
          queries: [
            {
              expr: `sum(rate(pulumi_audit_events_read_total{${J}}[1h])) / sum(rate(pulumi_audit_events_new_total{${J}}[1h]))`,
              name: 'read / new',
            },
          ],
        }),
        lines({
          title: 'Sweeps by kind and outcome',
          says: 'Sweeps a second: head sweeps and rescans go on all the time, catch-up at a beginning or after an absence, halved ones hit a dense span.',
          width: 8,
          unit: 'ops',
          min: 0,
          stacked: true,
          queries: [
            {
              expr: `sum by (kind, outcome) (rate(pulumi_audit_sweeps_total{${J}}[$__rate_interval])) > 0`,
              name: '{{kind}} {{outcome}}',
            },
          ],
        }),
        lines({
          title: 'How long a sweep takes (95 %)',
          says: 'Within what time 95 of 100 sweeps ended, by kind: a head sweep takes seconds, a catch-up window up to a minute.',
          width: 8,
          unit: 's',
          min: 0,
          queries: [
            {
              expr: `histogram_quantile(0.95, sum by (le, kind) (rate(pulumi_audit_sweep_duration_seconds_bucket{${J}}[$__rate_interval])))`,
              name: '{{kind}}',
            },
          ],
        }),
        lines({
          title: 'Failed sweeps within an hour: most of an organization',
          says: 'The ten organizations and kinds with most failed sweeps within an hour: normally 0, and three with no good one between them call a person.',
          width: 8,
          unit: 'short',
          min: 0,
          alerts: [warning('sweep-stuck', 3)],
          queries: [
            {
              expr: `topk(10, sum by (org, kind) (increase(pulumi_audit_sweeps_total{${J},outcome="failed"}[1h])) > 0)`,
              name: '{{org}} {{kind}}',
            },
          ],
        }),
        lines({
          title: 'How late events become visible',
          says: 'How old half, 95 and 99 of 100 late events were when they were first seen: none at all is normal, seconds to minutes where there are some.',
          width: 8,
          unit: 's',
          min: 0,
          alerts: [warning('lateness-near-overlap', 600)],
          queries: quantiles('pulumi_audit_event_lateness_seconds', '1h'),
        }),
        lines({
          title: 'Throttled: part of the last hour',
          says: 'The ten sources and destinations that were asked to slow down for the largest part of the last hour: normally 0.',
          width: 8,
          unit: 'percentunit',
          min: 0,
          alerts: [warning('throttled', 0.5)],
          queries: [
            {
              expr: `topk(10, max by (org, destination) (avg_over_time(pulumi_audit_waiting{${J},reason="throttled"}[1h])) > 0)`,
              name: '{{org}} {{destination}}',
            },
          ],
        }),
        lines({
          title: 'Clocks',
          says: 'How far the clock of Pulumi and that of the machine are apart, where it is most: normally a second or two.',
          width: 8,
          unit: 's',
          min: 0,
          alerts: [warning('clock-skew', 120)],
          queries: [{ expr: `max by (instance) (abs(pulumi_audit_source_clock_skew_seconds{${J}}))`, name: '{{instance}}' }],
        }),
      ],
    },
    {
      heading: 'Destinations',
      height: 8,
      panels: [
        lines({
          title: 'Deliveries by outcome',
          says: 'Tries to deliver a chunk: acknowledged is normal, throttled and ambiguous are tried again, refused goes into quarantine, failed pauses.',
          width: 8,
          unit: 'ops',
          min: 0,
          stacked: true,
          alerts: [critical('delivery-stale'), warning('quarantine')],
          queries: [
            {
              expr: `sum by (destination, outcome) (rate(pulumi_audit_deliveries_total{${J}}[$__rate_interval])) > 0`,
              name: '{{destination}} {{outcome}}',
            },
          ],
        }),
        lines({
          title: 'How long a delivery takes (95 %)',
          says: 'Within what time 95 of 100 tries to deliver a chunk ended, answered or not: normally below a few seconds.',
          width: 8,
          unit: 's',
          min: 0,
          queries: [
            {
              expr: `histogram_quantile(0.95, sum by (le, destination) (rate(pulumi_audit_delivery_duration_seconds_bucket{${J}}[$__rate_interval])))`,
              name: '{{destination}}',
            },
          ],
        }),
        lines({
          title: 'From an event to its acceptance (95 %)',
          says: 'Within what time 95 of 100 events were accepted, counted from the moment they happened: normally a poll interval and a little, more while an organization catches up.',
          width: 8,
          unit: 's',
          min: 0,
          queries: [
            {
              expr: `histogram_quantile(0.95, sum by (le, destination) (rate(pulumi_audit_end_to_end_latency_seconds_bucket{${J}}[15m])))`,
              name: '{{destination}}',
            },
          ],
        }),
        lines({
          title: 'Sent',
          says: 'Bytes a second of accepted chunks, as on the wire: it follows the events.',
          width: 8,
          unit: 'Bps',
          min: 0,
          queries: [{ expr: `sum by (destination) (rate(pulumi_audit_delivered_bytes_total{${J}}[$__rate_interval]))`, name: '{{destination}}' }],
        }),
        lines({
          title: 'Sends to Sentinel without an answer (15 min)',
          says: 'The ten organizations with most sends that got no answer within a quarter of an hour and were repeated: normally 0; each may have doubled rows.',
          width: 8,
          unit: 'short',
          min: 0,
          alerts: [warning('duplicate-surge', 5)],
          queries: [
            {
              expr: `topk(10, sum by (org) (increase(pulumi_audit_deliveries_total{${J},destination="sentinel",outcome="ambiguous"}[15m])) > 0)`,
              name: '{{org}}',
            },
          ],
        }),
        lines({
          title: 'Credentials that were not given or refused',
          says: 'Times a second that a credential was not given, or was refused, by kind: normally 0.',
          width: 8,
          unit: 'ops',
          min: 0,
          alerts: [critical('paused')],
          queries: [
            {
              expr: `sum by (credential) (rate(pulumi_audit_credential_refreshes_total{${J},outcome="failed"}[$__rate_interval]))`,
              name: '{{credential}}',
            },
          ],
        }),
        table({
          title: 'Secrets that end first',
          says: 'The twenty configured secrets that end first, of those whose end is known: more than two weeks is normal.',
          width: 12,
          unit: 'none',
          labels: ['org', 'credential'],
          sort: 'Ends in',
          ascending: true,
          alerts: [below(warning('credential-expiring', 1209600))],
          columns: { 'Ends in': { unit: 's', judged: true } },
          queries: [
            {
              expr: `bottomk(20, min by (org, credential) (pulumi_audit_credential_secret_expiry_timestamp_seconds{${J}})) - time()`,
              name: 'Ends in',
            },
          ],
        }),
        table({
          title: 'Quarantined (6 h)',
          says: 'Events that a destination refused for good within six hours, by organization and reason: normally nothing.',
          width: 12,
          unit: 'short',
          decimals: 0,
          labels: ['org', 'destination', 'reason'],
          sort: 'Refused',
          alerts: [warning('quarantine')],
          queries: [
            {
              expr: `round(sum by (org, destination, reason) (increase(pulumi_audit_quarantined_events_total{${J}}[6h]))) > 0`,
              name: 'Refused',
            },
          ],
        }),
      ],
    },
  ],
);
