#!/bin/sh
# Writes the dashboards anew from their source, into the folder that is named or into this one. The compiler holds the source against
# Grafana's own types first: a field or an option that Grafana does not know ends it. `make tools` installs what this needs.
set -eu

here="$(cd "$(dirname "$0")" && pwd)"
tools="$here/../.tools/dashboards"
into="${1-$here}"
from="${2-$here/source}"

# Beside the packages, so that the compiler and Node find them; each call has its own, so that they do not meet.
work="$(mktemp -d "$tools/work.XXXXXX")"
trap 'rm -rf "$work"' EXIT
cp "$from"/*.ts "$from"/*.mjs "$work"
cd "$work"
node ../node_modules/typescript/bin/tsc --strict --noUnusedLocals --noUnusedParameters --noUncheckedIndexedAccess --skipLibCheck \
    --target es2022 --module nodenext --moduleResolution nodenext ./*.ts
node write.mjs "$into"
