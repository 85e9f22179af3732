// How a panel is written: what it asks, what is normal, and which alert speaks of the same. Everything here has Grafana's own types,
// so that the compiler refuses what Grafana does not know.
//
// A threshold is an alert's: its number and colour follow from the page of the alert in docs/runbooks (tests/it/dashboards.rs).

import {
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  FieldColorModeId,
  GraphThresholdsStyleMode,
  LegendDisplayMode,
  MappingType,
  PercentChangeColorMode,
  SortOrder,
  StackingMode,
  TableCellDisplayMode,
  ThresholdsMode,
  TooltipDisplayMode,
  VisibilityMode,
  VizOrientation,
} from '@grafana/schema';
import type {
  DashboardLink,
  DataQuery,
  DataSourceRef,
  FieldConfig,
  FieldConfigSource,
  GraphFieldConfig,
  Panel,
  TableFieldOptions,
  Threshold,
} from '@grafana/schema';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type {
  FieldConfig as TimelineField,
  Options as TimelineOptions,
} from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type { Options as TableOptions } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type { Options as LinesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

export const DATASOURCE: DataSourceRef = { type: 'prometheus', uid: '${datasource}' };

/** What Prometheus' data source takes; the schema package has no type for it. */
interface PrometheusQuery extends DataQuery {
  expr: string;
  legendFormat?: string;
  instant?: boolean;
  range?: boolean;
  format?: 'time_series' | 'table';
}

export interface Query {
  expr: string;
  /** In Grafana's braces, such as `{{org}}`. In a table: the name of the column. */
  name?: string;
}

/** The alert that speaks of what a panel shows; `at` is where it begins. */
export interface Alert {
  page: string;
  color: 'red' | 'orange' | 'blue';
  at?: number;
  below?: boolean;
}
export const critical = (page: string, at?: number): Alert => ({ page, color: 'red', ...(at === undefined ? {} : { at }) });
export const warning = (page: string, at?: number): Alert => ({ page, color: 'orange', ...(at === undefined ? {} : { at }) });
export const info = (page: string, at?: number): Alert => ({ page, color: 'blue', ...(at === undefined ? {} : { at }) });
/** Where less is worse. */
export const below = (alert: Alert): Alert => ({ ...alert, below: true });

interface Common {
  title: string;
  /** One sentence: what it shows, and what is normal. */
  says: string;
  /** Of 24 columns. */
  width: number;
  queries: Query[];
  unit: string;
  alerts?: Alert[];
  decimals?: number;
}

/** A panel without its place; the dashboard gives it one. */
export type Piece = Panel & { width: number };

function thresholds(alerts: Alert[], calm: string): Threshold[] {
  const under = alerts.filter((alert) => alert.below);
  const over = alerts.filter((alert) => alert.at !== undefined && !alert.below);
  const first = under[0];
  if (first) {
    // Grafana counts upwards only: what is bad comes first.
    return [{ value: null, color: first.color }, { value: first.at ?? 0, color: calm }];
  }
  return [{ value: null, color: calm }, ...over.map(({ at, color }) => ({ value: at ?? 0, color }))];
}

/** To the page that says what to do. */
function runbook({ page }: Alert): DashboardLink {
  return {
    title: `What to do: ${page}`,
    url: `\${docs}/runbooks/${page}.md`,
    type: 'link',
    icon: 'doc',
    tooltip: '',
    tags: [],
    targetBlank: true,
    asDropdown: false,
    includeVars: false,
    keepTime: false,
  };
}

const letter = (number: number) => String.fromCharCode(65 + number);

function targets(queries: Query[], more: Partial<PrometheusQuery>): PrometheusQuery[] {
  return queries.map(({ expr, name }, number) => ({
    refId: letter(number),
    datasource: DATASOURCE,
    expr: expr.replace(/\s+/g, ' ').trim(),
    // The columns of a table are named by a transformation.
    ...(name === undefined || more.format === 'table' ? {} : { legendFormat: name }),
    ...more,
  }));
}

function piece(type: string, it: Common, query: Partial<PrometheusQuery>, options: object, fieldConfig: FieldConfigSource): Piece {
  const links = (it.alerts ?? []).map(runbook);
  const panel: Panel = {
    type,
    title: it.title,
    description: it.says,
    datasource: DATASOURCE,
    targets: targets(it.queries, query).map((target) => ({ ...target })),
    options: { ...options },
    fieldConfig,
    ...(links.length ? { links } : {}),
  };
  return { ...panel, width: it.width };
}

function defaults(it: Common, calm: string, color: FieldColorModeId, custom: Record<string, unknown>): FieldConfig {
  return {
    unit: it.unit,
    ...(it.decimals === undefined ? {} : { decimals: it.decimals }),
    color: { mode: color },
    thresholds: { mode: ThresholdsMode.Absolute, steps: thresholds(it.alerts ?? [], calm) },
    custom,
  };
}

/** One number, or one for each series, as it is at the end of the chosen time: what no longer answers has none, rather than its last. */
export function stat(it: Common & { noValue?: string }): Piece {
  const judged = it.alerts?.some(({ at }) => at !== undefined);
  const options: StatOptions = {
    reduceOptions: { calcs: ['lastNotNull'], values: false, fields: '' },
    orientation: VizOrientation.Auto,
    colorMode: judged ? BigValueColorMode.Background : BigValueColorMode.Value,
    graphMode: BigValueGraphMode.None,
    justifyMode: BigValueJustifyMode.Auto,
    percentChangeColorMode: PercentChangeColorMode.Standard,
    showPercentChange: false,
    textMode: it.queries.some(({ name }) => name) ? BigValueTextMode.ValueAndName : BigValueTextMode.Value,
    wideLayout: true,
  };
  // What no alert judges has the colour of text.
  const field = defaults(it, judged ? 'green' : 'text', FieldColorModeId.Thresholds, {});
  if (it.noValue !== undefined) field.noValue = it.noValue;
  return piece('stat', it, { instant: true, range: false }, options, { defaults: field, overrides: [] });
}

/** Lines over time; `stacked` where the sum means something. */
export function lines(it: Common & { stacked?: boolean; min?: number }): Piece {
  const custom: GraphFieldConfig = {
    lineWidth: 1,
    fillOpacity: it.stacked ? 30 : 8,
    spanNulls: false,
    ...(it.stacked ? { stacking: { mode: StackingMode.Normal, group: 'A' } } : {}),
    thresholdsStyle: {
      mode: it.alerts?.some(({ at }) => at !== undefined) ? GraphThresholdsStyleMode.Dashed : GraphThresholdsStyleMode.Off,
    },
  };
  const options: LinesOptions = {
    legend: { showLegend: true, displayMode: LegendDisplayMode.List, placement: 'bottom', calcs: [] },
    tooltip: { mode: TooltipDisplayMode.Multi, sort: SortOrder.Descending },
  };
  const field = defaults(it, 'transparent', FieldColorModeId.PaletteClassic, { ...custom });
  if (it.min !== undefined) field.min = it.min;
  return piece('timeseries', it, { range: true }, options, { defaults: field, overrides: [] });
}

interface Column {
  unit?: string;
  /** The colours of the panel's alerts. */
  judged?: boolean;
}

/** What stands in the labels, then one column for each query that has a name. Rows are merged where the labels are the same. */
export function table(it: Common & { labels: string[]; columns?: Record<string, Column>; sort: string; ascending?: boolean }): Piece {
  const custom: TableFieldOptions = { align: 'auto', inspect: false, cellOptions: { type: TableCellDisplayMode.Auto } };
  const options: TableOptions = {
    showHeader: true,
    frameIndex: 0,
    enablePagination: true,
    sortBy: [{ displayName: it.sort, desc: !it.ascending }],
  };
  const steps = thresholds(it.alerts ?? [], 'transparent');
  const overrides: FieldConfigSource['overrides'] = Object.entries(it.columns ?? {}).map(([name, column]) => ({
    matcher: { id: 'byName', options: name },
    properties: [
      ...(column.unit ? [{ id: 'unit', value: column.unit }] : []),
      ...(column.judged
        ? [
            { id: 'custom.cellOptions', value: { type: TableCellDisplayMode.ColorBackground } },
            { id: 'thresholds', value: { mode: ThresholdsMode.Absolute, steps } },
          ]
        : []),
    ],
  }));
  if (it.labels.includes('org')) {
    const url = '/d/pulumi-audit-org?${datasource:queryparam}&${job:queryparam}&${docs:queryparam}&var-org=${__value.raw}&${__url_time_range}';
    overrides.push({
      matcher: { id: 'byName', options: 'org' },
      properties: [{ id: 'links', value: [{ title: 'This organization', url }] }],
    });
  }
  const field = defaults(it, 'text', FieldColorModeId.Thresholds, { ...custom });
  delete field.thresholds;
  const made = piece('table', it, { instant: true, range: false, format: 'table' }, options, { defaults: field, overrides });
  const values = it.queries.flatMap(({ name }, number): Array<[string, string]> => {
    if (name === undefined) return [];
    return [[it.queries.length > 1 ? `Value #${letter(number)}` : 'Value', name]];
  });
  const order = [...it.labels, ...values.map(([from]) => from)];
  made.transformations = [
    { id: 'merge', options: {} },
    { id: 'filterFieldsByName', options: { include: { names: order } } },
    {
      id: 'organize',
      options: {
        excludeByName: {},
        indexByName: Object.fromEntries(order.map((name, index) => [name, index])),
        renameByName: Object.fromEntries(values),
      },
    },
  ];
  return made;
}

/** Which state each had when. States are 0, 1, and 2 and more. */
export function timeline(it: Common & { states: [string, string, string] }): Piece {
  const custom: TimelineField = { fillOpacity: 75, lineWidth: 0 };
  const options: TimelineOptions = {
    showValue: VisibilityMode.Never,
    mergeValues: true,
    rowHeight: 0.85,
    legend: { showLegend: true, displayMode: LegendDisplayMode.List, placement: 'bottom', calcs: [] },
    tooltip: { mode: TooltipDisplayMode.Single, sort: SortOrder.None },
  };
  const field = defaults(it, 'green', FieldColorModeId.Thresholds, { ...custom });
  field.mappings = [
    {
      type: MappingType.ValueToText,
      options: { '0': { text: it.states[0], color: 'green', index: 0 }, '1': { text: it.states[1], color: 'yellow', index: 1 } },
    },
    { type: MappingType.RangeToText, options: { from: 2, to: null, result: { text: it.states[2], color: 'red', index: 2 } } },
  ];
  return piece('state-timeline', it, { range: true }, options, { defaults: field, overrides: [] });
}
