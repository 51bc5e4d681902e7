# What the README tells people to type is what CI runs.

CARGO ?= cargo
APT := apt-get install -y --no-install-recommends

.DEFAULT_GOAL := help
.PHONY: help deps deps-bench run test bench lint

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

run: deps ## the gateway with its sample app: http://localhost:8080
	$(CARGO) run --locked --release -- run --demo

test: deps ## every test that needs only what the build needs
	$(CARGO) test --locked

deps-bench: deps
	@if command -v wrk >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && $(APT) wrk; \
	else \
		echo "The benchmark needs wrk. Install it first:" >&2; \
		echo "  Debian, Ubuntu  sudo apt-get install wrk" >&2; \
		echo "  macOS           brew install wrk" >&2; \
		exit 1; \
	fi

bench: deps-bench ## requests per second without and with authentication (5 minutes)
	CARGO="$(CARGO)" benches/run

lint: deps ## formatting and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
