// Uploads rows with Microsoft's own JavaScript clients, and tells what became of them.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.REFEREE_MODULES, "referee.js"));
const { ClientSecretCredential } = require("@azure/identity");
const { LogsIngestionClient } = require("@azure/monitor-ingestion");

const [authorityHost, endpoint, rule, stream, tenant, clientId, count] = process.argv.slice(2);

const credential = new ClientSecretCredential(tenant, clientId, process.env.CLIENT_SECRET, {
  authorityHost,
  disableInstanceDiscovery: true,
});
const client = new LogsIngestionClient(endpoint, credential);
const rows = Array.from({ length: Number(count) }, (_, number) => ({
  TimeGenerated: "2026-11-21T10:15:00.000000Z",
  Timestamp_d: 1795256100 + number,
  Event_s: "stack-deleted",
  Description_s: `Zoë deleted stack "shop/${number}" ` + "x".repeat(600),
  AuthFailure_b: false,
}));
await client.upload(rule, stream, rows);
console.log(JSON.stringify({ uploaded: rows.length }));
