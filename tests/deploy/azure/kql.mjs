// Binds KQL against tables with Microsoft's language service.
//
// Reads `{tables: {name: [[column, type]]}, queries: {name: text}, transforms: {name: {source: [[column, type]], text}}}` from standard
// input and prints, for each, what is wrong and which columns come out. A transform may besides use only what Azure takes in one.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../../.tools/azure/package.json", import.meta.url));
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");
const { System, Kusto, Bridge } = globalThis;
const { Symbols, Syntax, GlobalState, KustoCode } = Kusto.Language;

// learn.microsoft.com/azure/azure-monitor/data-collection/data-collection-transformations-kql, read in September 2026.
const OPERATORS = ["ExtendOperator", "ProjectOperator", "FilterOperator", "ParseOperator", "ProjectAwayOperator", "ProjectRenameOperator", "PrintOperator"];
const FUNCTIONS = `tobool todatetime todouble toreal toguid toint tolong tostring totimespan dayofmonth dayofweek dayofyear hourofday getmonth
    getyear ago now datetime_add datetime_diff make_datetime make_timespan startofday startofweek startofmonth startofyear endofday endofweek
    endofmonth endofyear array_concat array_length pack_array pack parse_json parse_xml zip abs bin floor ceiling exp exp10 exp2 isfinite isinf
    isnan log log10 log2 pow round sign case iif iff max_of min_of base64_encodestring base64_decodestring countof extract extract_all indexof
    isempty isnotempty split strcat strcat_delim strlen substring tolower toupper hash_sha256 gettype isnull isnotnull columnifexists
    parse_cef_dictionary geo_location`.split(/\s+/);

function globals(tables) {
    const symbols = Object.entries(tables).map(([name, columns]) => {
        const schema = columns.map(([column, type]) => `['${column}']:${type.toLowerCase().replace("boolean", "bool")}`).join(", ");
        return new Symbols.TableSymbol.$ctor7(name, `(${schema})`, null);
    });
    const array = (items) => System.Array.init(items, Symbols.Symbol);
    const database = new Symbols.DatabaseSymbol.$ctor3("workspace", null, array(symbols), false);
    const cluster = new Symbols.ClusterSymbol.$ctor1("azure", System.Array.init([database], Symbols.DatabaseSymbol), false);
    return GlobalState.Default.WithCluster(cluster).WithDatabase(database);
}

function list(items) {
    return Array.from({ length: items.Count }, (_, at) => items.getItem(at));
}

function bound(text, tables) {
    const code = KustoCode.ParseAndAnalyze(text, globals(tables));
    const problems = list(code.GetDiagnostics()).map((found) => `${found.Code} ${found.Message}: ${text.slice(found.Start, found.Start + found.Length)}`);
    const columns = code.ResultType?.Columns ? list(code.ResultType.Columns).map((column) => [column.Name, column.Type.Name]) : null;
    return { code, problems, columns };
}

function transform(text, source) {
    const { code, problems, columns } = bound(text, { source });
    Syntax.SyntaxElement.WalkNodes(code.Syntax, (node) => {
        const kind = Bridge.getTypeName(node).replace("Kusto.Language.Syntax.", "");
        if (kind.endsWith("Operator") && !OPERATORS.includes(kind)) problems.push(`no transform takes ${kind}`);
        if (kind === "FunctionCallExpression" && !FUNCTIONS.includes(node.Name.SimpleName)) problems.push(`no transform takes ${node.Name.SimpleName}()`);
        if (kind === "DynamicExpression") problems.push("no transform takes dynamic(): parse_json() does the same");
    });
    return { problems, columns };
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const answer = {};
for (const [name, text] of Object.entries(asked.queries ?? {})) {
    const { problems, columns } = bound(text, asked.tables);
    answer[name] = { problems, columns };
}
for (const [name, { source, text }] of Object.entries(asked.transforms ?? {})) answer[name] = transform(text, source);
console.log(JSON.stringify(answer));
