// How a dashboard is written: its variables, its links to the others, and panels that are given their places in the order they are named.

import { DashboardCursorSync, VariableHide, VariableRefresh, VariableSort } from '@grafana/schema';
import type { Dashboard, Panel, RowPanel, VariableModel } from '@grafana/schema';
import { DATASOURCE, type Piece } from './panels.js';

const TAG = 'pulumi-audit-forwarder';

/** Panels of one height beside each other; a new line begins where 24 columns are full. With a title, a heading stands above. */
export interface Band {
  heading?: string;
  height: number;
  panels: Piece[];
}

const source: VariableModel = {
  name: 'datasource',
  label: 'Prometheus',
  type: 'datasource',
  query: 'prometheus',
  hide: VariableHide.dontHide,
};

function asked(name: string, label: string, query: string, all: boolean): VariableModel {
  return {
    name,
    label,
    type: 'query',
    datasource: DATASOURCE,
    // As Grafana's own editor writes it: 1 is the values of a label.
    query: { qryType: 1, query, refId: 'PrometheusVariableQueryEditor-VariableQuery' },
    refresh: VariableRefresh.onTimeRangeChanged,
    sort: VariableSort.naturalAsc,
    multi: all,
    includeAll: all,
    ...(all ? { allValue: '.+', current: { text: ['All'], value: ['$__all'] } } : {}),
  };
}

const job = asked('job', 'Job', 'label_values(pulumi_audit_build_info, job)', true);
const org = asked('org', 'Organization', 'label_values(pulumi_audit_cursor_timestamp_seconds{job=~"$job"}, org)', false);
const docs: VariableModel = {
  name: 'docs',
  label: 'Documents at',
  description: 'The address of a copy of the folder docs: the links to runbooks begin with it.',
  type: 'textbox',
  query: 'https://docs.example.com/pulumi-audit-forwarder',
  current: { text: 'https://docs.example.com/pulumi-audit-forwarder', value: 'https://docs.example.com/pulumi-audit-forwarder' },
};

export function board(
  name: string,
  title: string,
  description: string,
  bands: Band[],
  { oneOrg = false, from = 'now-6h' }: { oneOrg?: boolean; from?: string } = {},
): Dashboard {
  const panels: Array<Panel | RowPanel> = [];
  let [x, y, id] = [0, 0, 1];
  for (const { heading, height, panels: pieces } of bands) {
    if (heading !== undefined) {
      panels.push({ type: 'row', id: id++, title: heading, collapsed: false, gridPos: { x: 0, y, w: 24, h: 1 }, panels: [] });
      y += 1;
    }
    for (const { width, ...panel } of pieces) {
      if (x + width > 24) [x, y] = [0, y + height];
      panels.push({ ...panel, id: id++, gridPos: { x, y, w: width, h: height } });
      x += width;
    }
    [x, y] = [0, y + height];
  }
  return {
    uid: `pulumi-audit-${name}`,
    title,
    description,
    tags: [TAG],
    // Older than the newest, so that older servers read it; newer ones bring it forward by themselves.
    schemaVersion: 39,
    editable: true,
    graphTooltip: DashboardCursorSync.Crosshair,
    refresh: '1m',
    time: { from, to: 'now' },
    timezone: 'browser',
    templating: { list: [source, job, ...(oneOrg ? [org] : []), docs] },
    links: [
      {
        type: 'dashboards',
        title: 'Pulumi audit',
        icon: 'external link',
        tooltip: '',
        tags: [TAG],
        asDropdown: false,
        includeVars: true,
        keepTime: true,
        targetBlank: false,
      },
    ],
    panels,
  };
}
