// Visits pages in one headless Chromium and writes down what a person would find there: one JSON array of findings on standard output.
// It judges nothing but accessibility (axe-core does); the test that started it judges the rest.
//
// Standard input: [{name, url, width?, height?, dark?, screenshot?, search?, tabs?}]. `search` fills the form's field and presses Enter,
// with scripts switched off in the browser. `tabs` presses the tabulator so often and notes what has the focus.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, chromium] = process.argv.slice(2);
const require = createRequire(modules + "/");
const { chromium: browsers } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const visits = JSON.parse(readFileSync(0, "utf8"));
const browser = await browsers.launch({ executablePath: chromium, args: ["--disable-gpu", "--disable-dev-shm-usage"] });

// A page that stays from visit to visit: making one takes longer than a visit.
async function tab(javaScriptEnabled) {
  const context = await browser.newContext({ javaScriptEnabled, reducedMotion: "reduce" });
  const page = await context.newPage();
  const seen = { errors: [], requests: [] };
  page.on("console", (message) => {
    // A page that is not there is answered with 404, which the console repeats.
    if (["error", "warning"].includes(message.type()) && !/status of 404/.test(message.text())) seen.errors.push(message.text());
  });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("dialog", (dialog) => { seen.errors.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => seen.requests.push(new URL(request.url()).pathname));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  return { page, seen };
}

async function visit({ page, seen }, { name, url, width = 1280, height = 800, dark = false, screenshot, search, tabs = 0 }) {
  await page.setViewportSize({ width, height });
  await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
  const errors = (seen.errors = []);
  const requests = (seen.requests = []);
  const begun = performance.now();
  const answer = await page.goto(url);
  const found = { name, status: answer.status(), headers: answer.headers(), bytes: (await answer.body()).length, milliseconds: Math.round(performance.now() - begun) };
  if (search !== undefined) {
    await page.locator("input[name=q]").fill(search);
    await Promise.all([page.waitForURL(/q=/), page.keyboard.press("Enter")]);
    found.url = page.url();
    found.rows = await page.locator("table.orgs tbody tr").count();
    found.value = await page.locator("input[name=q]").inputValue();
    found.text = await page.locator("body").innerText();
    found.title = await page.title();
    found.errors = errors;
    return found;
  }
  found.focus = [];
  for (let pressed = 0; pressed < tabs; pressed += 1) {
    await page.keyboard.press("Tab");
    found.focus.push(await page.evaluate(() => {
      const element = document.activeElement;
      const style = getComputedStyle(element);
      return { name: (element.labels?.[0]?.firstChild ?? element).textContent.trim(), outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 };
    }));
  }
  if (tabs > 0) {
    // The first stop leads past the header.
    await page.evaluate(() => document.activeElement.blur());
    await page.goto(url);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    found.skipped_to = await page.evaluate(() => document.activeElement.id || location.hash);
    await page.goto(url);
  }
  found.title = await page.title();
  found.rows = await page.locator("table.orgs tbody tr").count();
  Object.assign(found, await page.evaluate(() => ({
    text: document.body.innerText,
    scripts: document.querySelectorAll("script, iframe, object, embed, [onclick], [onload], [onerror], [style]").length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    height: document.documentElement.scrollHeight,
    first_row: document.querySelector("table.orgs tbody tr")?.getBoundingClientRect().top ?? 0,
    background: getComputedStyle(document.body).backgroundColor,
    policy_violations: window.violations,
  })));
  // What stands behind letters of SVG it cannot tell; they have the colour of other dim letters, which it does judge.
  // Over the browser's own wire: the page's policy lets no page run it.
  await page.evaluate(axe);
  const report = await page.evaluate(() => window.axe.run({ exclude: [["svg text"]] }, { resultTypes: ["violations", "incomplete"] }));
  const short = ({ id, nodes }) => `${id}: ${nodes.length} × ${nodes[0].html.slice(0, 160)} ${nodes[0].any[0]?.message ?? ""}`;
  found.violations = report.violations.map(short);
  found.undecided = report.incomplete.map(short);
  if (screenshot) await page.screenshot({ path: screenshot });
  found.errors = errors;
  found.requests = requests;
  return found;
}

const findings = [];
const left = [...visits];
async function work() {
  const [plain, without_scripts] = [await tab(true), await tab(false)];
  for (let one = left.shift(); one; one = left.shift()) {
    const begun = performance.now();
    const found = await visit(one.search === undefined ? plain : without_scripts, one);
    findings.push({ ...found, took: Math.round(performance.now() - begun) });
  }
}
try {
  await Promise.all([work(), work()]);
} finally {
  await browser.close();
}
console.log(JSON.stringify(findings));
