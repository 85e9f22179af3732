// The process itself: what it takes of its machine, and how its journal and its configuration do.

import { board } from './board.js';
import { below, critical, lines, stat, table, warning } from './panels.js';

const J = 'job=~"$job"';
const COMMITS = 'pulumi_audit_state_commits_total';

export const process = board(
  'process',
  'Pulumi audit: process',
  'What the forwarder takes of its machine, and how its journal and its configuration do.',
  [
    {
      height: 5,
      panels: [
        stat({
          title: 'Runs since',
          says: 'How long each forwarder has been running: since the last deployment is normal.',
          width: 4,
          unit: 's',
          alerts: [critical('forwarder-absent')],
          queries: [{ expr: `time() - process_start_time_seconds{${J}} and on (job, instance) pulumi_audit_build_info`, name: '{{instance}}' }],
        }),
        stat({
          title: 'Starts (1 h)',
          says: 'How often each forwarder was started within an hour, after the first time: normally 0.',
          width: 4,
          unit: 'none',
          alerts: [critical('forwarder-restarting', 5)],
          queries: [{ expr: `changes(process_start_time_seconds{${J}}[1h]) and on (job, instance) pulumi_audit_build_info`, name: '{{instance}}' }],
        }),
        stat({
          title: 'Configuration',
          says: 'Whether the newest configuration is in force: 1 is normal, 0 means that it was refused and the one before still is.',
          width: 4,
          unit: 'none',
          alerts: [below(warning('reload-failed', 1))],
          queries: [{ expr: `min by (instance) (pulumi_audit_config_last_reload_successful{${J}})`, name: '{{instance}}' }],
        }),
        stat({
          title: 'Failed commits (15 min)',
          says: 'Commits of the journal that failed within a quarter of an hour: normally 0; nothing is lost, as what was not committed is done again.',
          width: 4,
          unit: 'none',
          decimals: 0,
          alerts: [warning('commit-errors', 1)],
          queries: [{ expr: `round(sum by (instance) (increase(${COMMITS}{${J},outcome="failed"}[15m])))`, name: '{{instance}}' }],
        }),
        stat({
          title: 'Damaged journals set aside',
          says: 'Damaged journals that lie in the state directory: normally 0; look at the disk, then delete them.',
          width: 4,
          unit: 'none',
          queries: [{ expr: `sum by (instance) (pulumi_audit_state_damaged_journals{${J}})`, name: '{{instance}}' }],
        }),
        stat({
          title: 'Dropped log lines',
          says: 'Log lines that were dropped because nobody read standard error: normally 0.',
          width: 4,
          unit: 'none',
          queries: [{ expr: `sum by (instance) (pulumi_audit_log_lines_dropped_total{${J}})`, name: '{{instance}}' }],
        }),
      ],
    },
    {
      height: 8,
      panels: [
        lines({
          title: 'CPU',
          says: 'Cores in use: below two hundredths with a thousand organizations at rest, up to one and more while organizations catch up.',
          width: 8,
          unit: 'short',
          min: 0,
          queries: [
            {
              expr: `rate(process_cpu_seconds_total{${J}}[$__rate_interval]) and on (job, instance) pulumi_audit_build_info`,
              name: '{{instance}}',
            },
          ],
        }),
        lines({
          title: 'Memory',
          says: 'Resident memory: it rises while organizations catch up and stays flat afterwards.',
          width: 8,
          unit: 'bytes',
          min: 0,
          queries: [
            { expr: `process_resident_memory_bytes{${J}} and on (job, instance) pulumi_audit_build_info`, name: '{{instance}}' },
          ],
        }),
        lines({
          title: 'Open files',
          says: 'The part of its open files and connections that are allowed: normally far below one half.',
          width: 8,
          unit: 'percentunit',
          min: 0,
          queries: [
            {
              expr: `process_open_fds{${J}} / process_max_fds{${J}} and on (job, instance) pulumi_audit_build_info`,
              name: '{{instance}}',
            },
          ],
        }),
        lines({
          title: 'Commits by kind and outcome',
          says: 'Commits of the journal a second: append for what was read, acknowledge for what was accepted, and normally none that failed.',
          width: 8,
          unit: 'ops',
          min: 0,
          alerts: [warning('commit-errors')],
          queries: [{ expr: `sum by (kind, outcome) (rate(${COMMITS}{${J}}[$__rate_interval]))`, name: '{{kind}} {{outcome}}' }],
        }),
        lines({
          title: 'How long a commit takes (99 %)',
          says: 'Within what time 99 of 100 commits were durable: a few milliseconds on a good disk, and hundreds mean that the disk is the limit.',
          width: 8,
          unit: 's',
          min: 0,
          queries: [
            {
              expr: `histogram_quantile(0.99, sum by (le, kind) (rate(pulumi_audit_state_commit_duration_seconds_bucket{${J}}[$__rate_interval])))`,
              name: '{{kind}}',
            },
          ],
        }),
        lines({
          title: 'Journals together',
          says: 'Bytes that the journals of all organizations keep, and those of them that some destination has not accepted yet: what is kept is for the disk to hold.',
          width: 8,
          unit: 'bytes',
          min: 0,
          alerts: [warning('journal-growing')],
          queries: [
            { expr: `sum(pulumi_audit_journal_bytes{${J}})`, name: 'kept' },
            { expr: `sum(pulumi_audit_journal_unacknowledged_bytes{${J}})`, name: 'not accepted yet' },
          ],
        }),
        lines({
          title: 'How long a scrape takes',
          says: 'How long Prometheus needs for the page of metrics: below 50 milliseconds with a thousand organizations.',
          width: 8,
          unit: 's',
          min: 0,
          queries: [{ expr: `scrape_duration_seconds{${J}} and on (job, instance) pulumi_audit_build_info`, name: '{{instance}}' }],
        }),
        lines({
          title: 'Threads',
          says: 'Threads of the process: a few more than there are cores, and flat.',
          width: 8,
          unit: 'short',
          min: 0,
          queries: [{ expr: `process_threads{${J}} and on (job, instance) pulumi_audit_build_info`, name: '{{instance}}' }],
        }),
        table({
          title: 'Builds',
          says: 'Which version runs where, and how long ago its configuration was put in force: one version is normal.',
          width: 8,
          unit: 'none',
          labels: ['instance', 'version', 'revision'],
          sort: 'instance',
          ascending: true,
          alerts: [warning('reload-failed')],
          columns: { 'Configured since': { unit: 's' } },
          queries: [
            {
              expr: `pulumi_audit_build_info{${J}} * on (job, instance) group_left ()
                (time() - pulumi_audit_config_last_reload_success_timestamp_seconds{${J}})`,
              name: 'Configured since',
            },
          ],
        }),
      ],
    },
  ],
);
