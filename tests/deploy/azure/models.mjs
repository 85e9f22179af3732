// The same as models.py, by the models of Azure's JavaScript clients: for alert rules and diagnostic settings.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../../.tools/azure/package.json", import.meta.url));
const sentinel = require("@azure/arm-securityinsight/dist/index.js");
const enumerations = {
    "ScheduledAlertRule.severity": sentinel.KnownAlertSeverity,
    "ScheduledAlertRule.tactics": sentinel.KnownAttackTactic,
    "EntityMapping.entityType": sentinel.KnownEntityMappingType,
    "EventGroupingSettings.aggregationKind": sentinel.KnownEventGroupingAggregationKind,
    "GroupingConfiguration.matchingMethod": sentinel.KnownMatchingMethod,
};
const directory = (name) => new URL(`../../../.tools/azure/node_modules/@azure/${name}/dist-esm/src/models/mappers.js`, import.meta.url);
const models = {
    "Microsoft.SecurityInsights/alertRules": [await import(directory("arm-securityinsight")), "ScheduledAlertRule"],
    "Microsoft.Insights/diagnosticSettings": [await import(directory("arm-monitor")), "DiagnosticSettingsResource"],
};
// What a template says of every resource, and no model of a body knows.
const common = ["id", "type", "apiVersion", "name", "scope", "dependsOn", "deployed"];
// What Azure's documentation of scheduled rules calls required, and the client does not.
const required = `displayName enabled severity query queryFrequency queryPeriod triggerOperator triggerThreshold suppressionDuration
    suppressionEnabled`.split(/\s+/);
const problems = [];

function kind(type, value, where, field, mappers) {
    const is = (wanted) => typeof value === wanted || problems.push(`${where} is no ${wanted}: ${JSON.stringify(value)}`);
    switch (type.name) {
        case "String": {
            const known = enumerations[field] && Object.values(enumerations[field]);
            if (is("string") === true && known && !known.includes(value)) problems.push(`${where} is ${value}, not one of ${known}`);
            return;
        }
        case "Enum":
            return type.allowedValues.includes(value) || problems.push(`${where} is ${value}, not one of ${type.allowedValues}`);
        case "TimeSpan":
            return /^P(?=.)(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?$/.test(value) || problems.push(`${where} is no duration: ${value}`);
        case "Number":
            return is("number");
        case "Boolean":
            return is("boolean");
        case "Sequence":
            if (!Array.isArray(value)) return problems.push(`${where} is no list`);
            return value.forEach((item, at) => kind(type.element.type, item, `${where}[${at}]`, field, mappers));
        case "Composite":
            return body(mappers[type.className], value, where, mappers);
        default:
            problems.push(`${where} is of a kind that is not understood: ${type.name}`);
    }
}

function body(model, value, where, mappers, exempt = []) {
    const { className, modelProperties } = model.type;
    const known = Object.values(modelProperties).map((property) => [property.serializedName.split("."), property]);
    const step = (value, above) => {
        for (const [key, item] of Object.entries(value)) {
            const path = [...above, key];
            const place = [where, ...path].join(".");
            if (above.length === 0 && exempt.includes(key)) continue;
            const exact = known.find(([known]) => known.join(".") === path.join("."));
            if (exact?.[1].readOnly) problems.push(`${place} can only be read`);
            else if (exact) kind(exact[1].type, item, place, `${className}.${key}`, mappers);
            else if (known.some(([known]) => known.length > path.length && path.every((part, at) => known[at] === part))) step(item, path);
            else problems.push(`${place} is unknown to ${className}`);
        }
    };
    step(value, []);
    for (const [path, property] of known) {
        const must = property.required || (className === "ScheduledAlertRule" && required.includes(path.at(-1)));
        if (must && path.reduce((inner, part) => inner?.[part], value) === undefined) problems.push(`${where}.${path.join(".")} is missing`);
    }
}

const judged = [];
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
    const [mappers, name] = models[resource.type] ?? [];
    if (!name) continue;
    judged.push(resource.id);
    body(mappers[name], resource, resource.type, mappers, common);
}
console.log(JSON.stringify({ problems, judged }));
