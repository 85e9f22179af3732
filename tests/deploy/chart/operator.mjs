// Reads objects of Prometheus' operator as a JSON list from standard input, and writes for each what its own definitions say against it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const models = join(process.argv[2], "node_modules/@kubernetes-models/prometheus-operator");

// The definitions let unknown keys pass, as the API server takes them out in silence; the types name those that are known.
const unknown = (thing, type) => {
  const types = readFileSync(join(models, "monitoring.coreos.com/v1", `${type}.d.ts`), "utf8");
  return Object.keys(thing).filter((key) => !new RegExp(`"${key}"\\??:`).test(types));
};
const misspelt = ({ kind, spec }) => [
  ...unknown(spec, `${kind}Spec`),
  ...(spec.endpoints ?? []).flatMap((endpoint) => unknown(endpoint, "Endpoint")),
];

const said = [];
for (const thing of JSON.parse(readFileSync(0, "utf8"))) {
  const module = await import(pathToFileURL(join(models, thing.apiVersion, `${thing.kind}.js`)));
  try {
    new module[thing.kind](thing).validate();
    const keys = misspelt(thing);
    said.push(keys.length ? `unknown: ${keys}` : null);
  } catch (error) {
    said.push(String(error.message));
  }
}
console.log(JSON.stringify(said));
