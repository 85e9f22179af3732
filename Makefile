# Every command sets up what it needs by itself: it takes a Rust toolchain, a C compiler and Python 3.
# What others wrote and the tests use (an S3 server, the vendors' clients, cargo-deny, cargo-mutants) goes into .tools, nowhere else.

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := .tools/bin/cargo-deny
CARGO_MUTANTS_VERSION := 27.1.0
CARGO_MUTANTS := .tools/bin/cargo-mutants
CARGO_AUDITABLE_VERSION := 0.7.7
CARGO_AUDITABLE := .tools/bin/cargo-auditable
CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_CYCLONEDX := .tools/bin/cargo-cyclonedx

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test screenshots dashboards dashboard-pictures lint simulate crash-sweep fuzz mutants design-mutants soak nightly bench bench-orgs release static sbom container container-from-source tools clean

help: ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: ## watch events travel over real HTTP while things break, then see them counted
	sh tests/tools.sh demo
	cargo build --release --locked --bin pulumi-audit-forwarder --example demo
	cargo run --quiet --release --locked --example demo

# Most tests wait for a service more than they compute: five at a time keep two cores busy, and two do not.
test: tools ## every test: pure cores, the real binary against its world, other people's clients as referees
	RUST_TEST_THREADS=$(or $(RUST_TEST_THREADS),5) cargo test --locked

screenshots: tools ## the pictures in docs/status-page.md, by the test that looks at the status page
	SCREENSHOTS=$(CURDIR)/docs/status-page cargo test --locked --test it status_page::the_status_page

# SEEDS=10000, FROM=5000; SEED=17 for one, with KEEP, ORGS and THIN as a failing one prints them; UNTIL_FAILURE=1 ends at the first.
simulate: ## days of the whole core in simulated time, thousands of seeds, each judged: SEEDS=10000 is ten minutes, SEED=17 one of them
	cargo test --quiet --release --locked --test simulate -- $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000)) \
		$(if $(FROM),--from $(FROM)) $(if $(KEEP),--keep $(KEEP)) $(if $(ORGS),--orgs $(ORGS)) $(if $(THIN),--thin $(THIN)) \
		$(if $(UNTIL_FAILURE),--until-failure)

crash-sweep: ## every file operation and send of a run fails or kills it, call by call: hours; POINTS=300 a spread, POINT=... one
	sh tests/tools.sh crash-sweep
	cargo test --locked --test crash_sweep -- $(if $(POINTS),--points $(POINTS)) $(if $(POINT),--point $(POINT)) \
		$(if $(SERIES),--series $(SERIES)) $(if $(JOBS),--jobs $(JOBS)) $(if $(SEED),--seed $(SEED))

dashboards: tools ## the dashboards for Grafana anew from dashboards/source
	sh dashboards/generate.sh

dashboard-pictures: tools ## the drawings in docs/dashboards.md, by the test that asks their queries: some minutes
	DASHBOARD_PICTURES=$(CURDIR)/docs/dashboards cargo test --locked --test it dashboards::a_real

lint: $(CARGO_DENY) ## formatting, lints, documentation, dependencies, the documents' links and spelling
	sh tests/tools.sh lint
	cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test crash_sweep --test soak -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	$(CARGO_DENY) --locked --log-level warn check bans licenses sources
	python3 .ci/dependency-table.py
	python3 .ci/links.py
	python3 .ci/spelling.py

mutants: $(CARGO_MUTANTS) ## spoil the decision core in hundreds of places: do its tests notice? FILE=src/retry.rs for one file
	nice -n 10 python3 tests/mutation/core.py $(FILE)

design-mutants: ## make the mistakes this daemon could have been designed with: does the simulator notice? MUTANT=no-overlap for one
	nice -n 10 python3 tests/mutation/design.py $(MUTANT)

bench: ## what an event costs in CPU time, whole and step by step, and memory: five minutes or so
	sh tests/tools.sh demo
	cargo bench --locked --bench pipeline

bench-orgs: ## what a thousand organizations in one process cost, and ten thousand: three quarters of an hour
	sh tests/tools.sh demo
	cargo bench --locked --bench orgs

soak: tools ## seven days of polls in half an hour, with faults at random: does memory grow? (MINUTES=5 for a part)
	cargo test --locked --test soak

fuzz: ## what is parsed from outside, against any bytes: TARGET=page (else all in turn), SECONDS=60 for each
	TARGET="$(TARGET)" SECONDS_EACH="$(or $(SECONDS),60)" sh fuzz/run.sh

# Each of them ends with the first failure; what it found is said by its last lines.
nightly: ## what takes a night: every point of the sweep, 100,000 seeds, both kinds of mutants, fuzzing, the soak
	PROPTEST_CASES=10000 cargo test --locked --lib verify::
	$(MAKE) simulate SEEDS=100000
	$(MAKE) crash-sweep
	$(MAKE) mutants
	$(MAKE) design-mutants
	$(MAKE) fuzz SECONDS=600
	$(MAKE) soak

release: $(CARGO_AUDITABLE) $(CARGO_CYCLONEDX) ## dist/: packages, tarball, image, static binary, SBOM and checksums, of two builds that must be equal: eighteen minutes (ONCE=1: one build)
	sh tests/tools.sh release
	sh deploy/release/release.sh $(if $(ONCE),--once)

# The same binary as in a release when the tree is as committed.
BUILT_FROM = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) PAF_REVISION=$$(git rev-parse --short=12 HEAD)

static: $(CARGO_AUDITABLE) ## dist/pulumi-audit-forwarder-static: the binary for an image that has nothing else, built once from the tree as it is
	$(BUILT_FROM) sh deploy/release/build.sh . target/static dist static

sbom: $(CARGO_CYCLONEDX) ## dist/pulumi-audit-forwarder.cdx.json: what the binary is made of
	$(BUILT_FROM) sh deploy/release/build.sh . target/static dist sbom

container: ## dist/: the container image, of the static binary and its list of components; fails above 30 MB
	$(MAKE) static sbom
	$(BUILT_FROM) sh deploy/container/build.sh prebuilt

container-from-source: ## the same image, compiled in its own build stage without the network: a base image is made first; a quarter of an hour
	$(BUILT_FROM) sh deploy/container/build.sh source

tools: ## install into .tools what the tests use
	sh tests/tools.sh

clean: ## remove everything that these commands made
	cargo clean
	rm -rf .tools .demo dist

# An unoptimized build checks our tree in a second and is made in a fifth of the time.
$(CARGO_DENY):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=.tools/build \
		cargo install --quiet --debug --locked --root .tools cargo-deny --version $(CARGO_DENY_VERSION)
	rm -rf .tools/build

$(CARGO_MUTANTS):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=.tools/build \
		cargo install --quiet --debug --locked --root .tools cargo-mutants --version $(CARGO_MUTANTS_VERSION)
	rm -rf .tools/build

$(CARGO_AUDITABLE):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=.tools/build \
		cargo install --quiet --debug --locked --root .tools cargo-auditable --version $(CARGO_AUDITABLE_VERSION)
	rm -rf .tools/build

$(CARGO_CYCLONEDX):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=.tools/build \
		cargo install --quiet --debug --locked --root .tools cargo-cyclonedx --version $(CARGO_CYCLONEDX_VERSION)
	rm -rf .tools/build
