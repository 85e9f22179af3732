// Draws each dashboard from what Prometheus answers to its queries, as Grafana is no package that a test could start. The places, titles,
// units, thresholds and queries are those of the JSON; how it looks is this script's.
//
// Arguments: the browser's modules, the browser, the dashboards' folder, the pictures' folder, Prometheus' address, the org that is chosen.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, chromium, from, to, prometheus, org] = process.argv.slice(2);
const { chromium: browsers } = createRequire(modules + "/")("playwright-core");
const NAMES = ["orgs", "org", "services", "process"];
const SPAN = 210;
const [COLUMN, ROW, GAP] = [60, 30, 8];
const PALETTE = ["#3274d9", "#e0752d", "#37872d", "#a352cc", "#c4162a", "#0a8a8a", "#b5a300", "#6e5a4b", "#e0559a", "#555f6b"];
const COLORS = { green: "#2f8f3f", red: "#d02437", orange: "#e07d10", blue: "#3274d9", yellow: "#e8b400", text: "#20262e", transparent: "transparent" };

const end = Math.floor(Date.now() / 1000);
const start = end - SPAN;

async function ask(path, parameters) {
  const response = await fetch(`${prometheus}/api/v1/${path}`, { method: "POST", body: new URLSearchParams(parameters) });
  const answer = await response.json();
  if (answer.status !== "success") throw new Error(`${parameters.query}: ${JSON.stringify(answer)}`);
  return answer.data.result;
}

const asked = (expr) => expr.replaceAll("$job", ".+").replaceAll("$org", org).replaceAll("$__rate_interval", "15s");
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const named = (target, labels) => (target.legendFormat ?? "").replace(/\{\{(\w+)\}\}/g, (_, label) => labels[label] ?? "");

function shown(value, unit, decimals) {
  if (value === undefined || Number.isNaN(value)) return "–";
  const round = (number, most = 2) => String(Number(number.toFixed(decimals ?? (Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : most))));
  const scaled = (base, names) => {
    let [number, at] = [value, 0];
    while (Math.abs(number) >= base && at < names.length - 1) [number, at] = [number / base, at + 1];
    return `${round(number)}${names[at]}`;
  };
  switch (unit) {
    case "s": {
      for (const [seconds, name] of [[31536000, "years"], [604800, "weeks"], [86400, "days"], [3600, "hours"], [60, "mins"]]) {
        if (Math.abs(value) >= seconds) return `${round(value / seconds)} ${name}`;
      }
      if (value !== 0 && Math.abs(value) < 1) return `${round(value * 1000)} ms`;
      return `${round(value)} s`;
    }
    case "percentunit": return `${round(value * 100)}%`;
    case "bytes": return scaled(1024, [" B", " KiB", " MiB", " GiB"]);
    case "Bps": return scaled(1000, [" B/s", " kB/s", " MB/s"]);
    case "eps": return `${round(value)} ev/s`;
    case "ops": return `${round(value)} /s`;
    case "reqps": return `${round(value)} req/s`;
    default: return scaled(1000, ["", " K", " Mil"]);
  }
}

function judged(value, steps) {
  let color = "text";
  for (const step of steps) if (step.value === null || value >= step.value) color = step.color;
  return COLORS[color] ?? color;
}

const instant = (panel) => Promise.all(panel.targets.map((target) => ask("query", { query: asked(target.expr), time: end })));

async function stat(panel) {
  const { defaults } = panel.fieldConfig;
  const values = (await instant(panel)).flatMap((result, number) =>
    result.map(({ metric, value }) => ({ name: named(panel.targets[number], metric), value: Number(value[1]) })));
  if (!values.length) return `<div class="big none">${escaped(defaults.noValue ?? "No data")}</div>`;
  const filled = panel.options.colorMode === "background";
  return `<div class="stats">${values.map(({ name, value }) => {
    const color = judged(value, defaults.thresholds.steps);
    const style = filled ? `background:${color};color:#fff` : `color:${color}`;
    return `<div class="big" style="${style}"><small>${escaped(name)}</small>${escaped(shown(value, defaults.unit, defaults.decimals))}</div>`;
  }).join("")}</div>`;
}

async function series(panel) {
  const answers = await Promise.all(panel.targets.map((target) =>
    ask("query_range", { query: asked(target.expr), start, end, step: 2 })));
  return answers.flatMap((result, number) => result.map(({ metric, values }) => ({
    name: named(panel.targets[number], metric),
    points: values.map(([time, value]) => [time, Number(value)]).filter(([, value]) => Number.isFinite(value)),
  }))).filter(({ points }) => points.length).sort((one, other) => one.name.localeCompare(other.name));
}

const clock = (time) => new Date(time * 1000).toISOString().slice(11, 16);
const legend = (entries) => `<div class="legend">${entries.map(([name, color]) => `<span><i style="background:${color}"></i>${escaped(name)}</span>`).join("")}</div>`;
const ticks = (x, height) => [0, 60, 120, 180].map((after) =>
  `<text x="${x(start + after)}" y="${height - 2}" text-anchor="middle">${clock(start + after)}</text>`).join("");

/** A distance between two marks that people like, about as large as asked for. */
function even(about, unit) {
  const times = [60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800, 1209600];
  if (unit === "s" && about > 30) return times.find((time) => time >= about) ?? 604800 * Math.ceil(about / 604800);
  const base = unit === "bytes" ? 1024 ** Math.floor(Math.log(about) / Math.log(1024)) : 1;
  const power = 10 ** Math.floor(Math.log10(about / base));
  return [1, 2, 2.5, 5, 10].find((times) => times * power * base >= about) * power * base;
}

async function lines(panel, width, height) {
  const all = await series(panel);
  if (!all.length) return `<div class="none">No data</div>`;
  const { defaults } = panel.fieldConfig;
  const stacked = defaults.custom.stacking?.mode === "normal";
  if (stacked) {
    const below = new Map();
    // What a series does not say is nothing, lest an area reaches across a gap.
    const times = [...new Set(all.flatMap(({ points }) => points.map(([time]) => time)))].sort((one, other) => one - other);
    for (const one of all) {
      const said = new Map(one.points);
      one.points = times.map((time) => [time, said.get(time) ?? 0]);
    }
    for (const one of all) {
      one.base = one.points.map(([time]) => [time, below.get(time) ?? 0]);
      one.points = one.points.map(([time, value]) => [time, value + (below.get(time) ?? 0)]);
      for (const [time, value] of one.points) below.set(time, value);
    }
  }
  height -= 22 * Math.ceil(all.length / Math.max(1, Math.floor(width / 150))) + 4;
  const most = Math.max(...all.flatMap(({ points }) => points.map(([, value]) => value)));
  const step = even(most > 0 ? most / 4 : 0.25, defaults.unit);
  const top = Math.max(4, Math.ceil((most * 1.02) / step)) * step;
  const [left, bottom] = [74, 16];
  const x = (time) => left + ((time - start) / SPAN) * (width - left - 14);
  const y = (value) => height - bottom - (value / top) * (height - bottom - 8);
  const path = (points) => points.map(([time, value], at) => {
    const gap = at === 0 || time - points[at - 1][0] > 6;
    return `${gap ? "M" : "L"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
  }).join("");
  const grid = Array.from({ length: Math.round(top / step) + 1 }, (_, at) => {
    const value = at * step;
    return `<path d="M${left} ${y(value)}H${width - 14}" class="grid"/><text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${escaped(shown(value, defaults.unit))}</text>`;
  }).join("");
  const limits = defaults.thresholds.steps.filter(({ value }) => value !== null && value <= top).map(({ value, color }) =>
    `<path d="M${left} ${y(value)}H${width - 14}" stroke="${COLORS[color]}" stroke-dasharray="6 5" stroke-width="1.5"/>`).join("");
  const drawn = all.map(({ points, base }, at) => {
    const color = PALETTE[at % PALETTE.length];
    const area = base ? `<path d="${path(points)}L${[...base].reverse().map(([time, value]) => `${x(time).toFixed(1)} ${y(value).toFixed(1)}`).join("L")}Z" fill="${color}" fill-opacity=".3"/>` : "";
    return `${area}<path d="${path(points)}" fill="none" stroke="${color}" stroke-width="1.6"/>`;
  }).join("");
  return `<svg width="${width}" height="${height}">${grid}${drawn}${limits}${ticks(x, height)}</svg>${legend(all.map(({ name }, at) => [name || panel.title, PALETTE[at % PALETTE.length]]))}`;
}

async function timeline(panel, width, height) {
  const all = await series(panel);
  const mappings = panel.fieldConfig.defaults.mappings;
  const state = (value) => mappings[0].options[String(value)] ?? mappings[1].options.result;
  height -= 26;
  const [left, each] = [80, (height - 18) / all.length];
  const x = (time) => left + ((time - start) / SPAN) * (width - left - 14);
  const rows = all.map(({ name, points }, row) => {
    const bars = points.map(([time, value], at) => {
      const until = points[at + 1]?.[0] ?? end;
      return `<rect x="${x(time)}" width="${Math.max(0, x(until) - x(time)) + 0.5}" y="${row * each + each * 0.1}" height="${each * 0.8}" fill="${COLORS[state(value).color]}"/>`;
    }).join("");
    return `<text x="${left - 8}" y="${row * each + each / 2 + 4}" text-anchor="end">${escaped(name)}</text>${bars}`;
  }).join("");
  const states = [mappings[0].options["0"], mappings[0].options["1"], mappings[1].options.result];
  return `<svg width="${width}" height="${height}">${rows}${ticks(x, height)}</svg>${legend(states.map(({ text, color }) => [text, COLORS[color]]))}`;
}

async function table(panel) {
  const { transformations, options, fieldConfig } = panel;
  const names = transformations.find(({ id }) => id === "filterFieldsByName").options.include.names;
  const renamed = transformations.find(({ id }) => id === "organize").options.renameByName;
  const rows = [];
  (await instant(panel)).forEach((result, number) => {
    const column = panel.targets.length > 1 ? `Value #${String.fromCharCode(65 + number)}` : "Value";
    for (const { metric, value } of result) {
      // As Grafana merges: into every row whose labels agree, a row of its own where there is none.
      const fits = rows.filter((row) => !(column in row.values) && Object.entries(metric).every(([label, text]) => row.metric[label] === text));
      if (fits.length) for (const row of fits) row.values[column] = Number(value[1]);
      else rows.push({ metric, values: { [column]: Number(value[1]) } });
    }
  });
  if (!rows.length) return `<div class="none">No data</div>`;
  const cells = rows.map((row) => Object.fromEntries(names.map((name) => [renamed[name] ?? name, row.metric[name] ?? row.values[name]])));
  const { displayName, desc } = options.sortBy[0];
  cells.sort((one, other) => (one[displayName] > other[displayName] ? 1 : -1) * (desc ? -1 : 1));
  const columns = names.map((name) => renamed[name] ?? name).filter((name) => cells.some((row) => row[name] !== undefined));
  const property = (column, id) => fieldConfig.overrides.find(({ matcher }) => matcher.options === column)?.properties.find((it) => it.id === id)?.value;
  const body = cells.map((row) => `<tr>${columns.map((column) => {
    const value = row[column];
    if (typeof value !== "number") return `<td>${escaped(value ?? "")}</td>`;
    const steps = property(column, "thresholds")?.steps;
    const color = steps ? judged(value, steps) : "transparent";
    const white = color === "transparent" ? "" : ";color:#fff";
    return `<td style="background:${color}${white}">${escaped(shown(value, property(column, "unit") ?? fieldConfig.defaults.unit, fieldConfig.defaults.decimals))}</td>`;
  }).join("")}</tr>`).join("");
  return `<table><tr>${columns.map((column) => `<th>${escaped(column)}</th>`).join("")}</tr>${body}</table>`;
}

const KINDS = { stat, timeseries: lines, "state-timeline": timeline, table };
const STYLE = `*{box-sizing:border-box}body{margin:0;background:#f1f3f6;font:13px/1.4 "DejaVu Sans",sans-serif;color:#20262e;width:${24 * COLUMN + 2 * GAP}px}
h1{font-size:19px;margin:0;padding:14px 16px 2px}h1+p{margin:0;padding:0 16px 10px;color:#5a6472}h2{font-size:14px;margin:0;padding:6px 4px}
main{position:relative}section{position:absolute;background:#fff;border:1px solid #d8dde4;border-radius:3px;overflow:hidden;display:flex;flex-direction:column}
h3{font-size:12.5px;margin:0;padding:6px 10px;font-weight:600;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.stats{display:flex;gap:4px;flex:1;padding:0 4px 4px}.big{flex:1;font-size:25px;font-weight:600;display:flex;flex-direction:column;align-items:center;justify-content:center;border-radius:3px}
.big small{font-size:12px;font-weight:400}.none{flex:1;display:flex;align-items:center;justify-content:center;color:#7a8492;font-size:15px;font-weight:400}
.legend{padding:0 10px 4px;font-size:11.5px;display:flex;flex-wrap:wrap;gap:2px 14px}.legend i{display:inline-block;width:12px;height:3px;margin-right:5px;vertical-align:middle}
svg{display:block}svg text{font-size:11px;fill:#5a6472}.grid{stroke:#e6eaef}table{border-collapse:collapse;width:100%;font-size:12.5px}th,td{text-align:left;padding:4px 10px;border-bottom:1px solid #e6eaef}`;

const browser = await browsers.launch({ executablePath: chromium, args: ["--disable-gpu", "--disable-dev-shm-usage"] });
const page = await browser.newPage();
for (const name of NAMES) {
  const dashboard = JSON.parse(readFileSync(`${from}/pulumi-audit-${name}.json`, "utf8"));
  const drawn = [];
  let bottom = 0;
  for (const panel of dashboard.panels) {
    const { x, y, w, h } = panel.gridPos;
    const place = `left:${x * COLUMN + GAP}px;top:${y * ROW}px;width:${w * COLUMN - GAP}px;height:${h * ROW - GAP}px`;
    bottom = Math.max(bottom, (y + h) * ROW);
    if (panel.type === "row") {
      drawn.push(`<h2 style="position:absolute;${place}">${escaped(panel.title)}</h2>`);
      continue;
    }
    const body = await KINDS[panel.type](panel, w * COLUMN - GAP - 2, h * ROW - GAP - 34);
    drawn.push(`<section style="${place}"><h3>${escaped(panel.title)}</h3>${body}</section>`);
  }
  const title = name === "org" ? `${dashboard.title}: ${org}` : dashboard.title;
  await page.setViewportSize({ width: 24 * COLUMN + 2 * GAP, height: bottom + 70 });
  await page.setContent(`<!doctype html><meta charset="utf-8"><style>${STYLE}</style><h1>${escaped(title)}</h1>
    <p>A drawing of this dashboard's queries, from a Prometheus that scraped the daemon for some minutes; not a picture of Grafana.</p><main>${drawn.join("")}</main>`);
  await page.screenshot({ path: `${to}/${name}.png` });
}
await browser.close();
