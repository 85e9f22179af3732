// Writes every dashboard into the folder that is named.

import { writeFileSync } from 'node:fs';
import { org } from './org.js';
import { orgs } from './orgs.js';
import { process as ofTheProcess } from './process.js';
import { services } from './services.js';

const into = process.argv[2];
if (into === undefined) throw new Error('name the folder to write to');
for (const dashboard of [orgs, org, services, ofTheProcess]) {
  writeFileSync(`${into}/${dashboard.uid}.json`, `${JSON.stringify(dashboard, null, 2)}\n`);
}
