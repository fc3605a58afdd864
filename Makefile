# Works with GNU make 3.81, a POSIX shell and Python 3.11 or newer. Every path is relative, so the checkout may lie in any folder.
#
# constraints.txt holds every dependency's version and hashes. pip refuses a file whose hash is not among them, and a package that is
# missing there. Older pips cannot check hashes that stand in a constraints file, so the pinned pip is installed first, from its own lines.

PYTHON ?= python3
UV ?= $(firstword $(wildcard .venv/bin/uv) uv)
UPGRADE ?=
PYTEST_ARGS ?= -n 4
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=
MINUTES ?=
COMMA := ,
# All but native, which is this project's own.
EXTRAS := embedded metrics otel celery django sqlalchemy test verifiers migrations bench
# Not from the environment, where it may mean anything.
NAME :=

BIN := .venv/bin
CARGO := cargo
# What is different with the native core: formats, writing, reading, the stream, verification.
OF_THE_CORE := tests/unit tests/vectors \
	$(patsubst %,tests/integration/store/test_%.py,append append_model concurrency idempotency recorded_as_given transactions tree) \
	tests/integration/capture/test_record.py \
	$(patsubst %,tests/integration/stream/test_%.py,bounded_memory consumer_groups relay_races) \
	$(patsubst %,tests/integration/verify/test_%.py,ranges rule_findings tampering verify)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
PINNED := --only-binary :all: -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint types imports all-tests python-tests unit smoke fuzz bench simulate wheel constraints journal migration clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed ## Run an end-to-end demo on sample data; starts its own Postgres and Valkey
	@$(BIN)/auditledger demo $(DEMO_ARGS)

test: lint types imports all-tests python-tests ## All checks: lint, types, imports, every test, and some without the native core

lint: .venv/.test-installed ## Style and formatting (ruff; rustfmt and clippy where cargo is)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	@if $(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1; then \
		$(CARGO) fmt --manifest-path native/Cargo.toml --check \
			&& $(CARGO) clippy --quiet --locked --manifest-path native/Cargo.toml -- --deny warnings; \
	fi

types: .venv/.test-installed ## Types (mypy)
	$(BIN)/python -m mypy

imports: .venv/.test-installed ## Layers (import-linter)
	$(BIN)/lint-imports --no-logo

all-tests: .venv/.test-installed .venv/.native ## Every test (pytest); PYTEST_ARGS="-n 4" is the default: many tests wait more than they work
	$(BIN)/python -m pytest $(PYTEST_ARGS)

python-tests: .venv/.test-installed ## The tests of what the native core does, without it
	LEDGER_NATIVE=0 $(BIN)/python -m pytest $(PYTEST_ARGS) $(OF_THE_CORE)

unit: .venv/.test-installed ## The tests that need no server, in less than a minute
	$(BIN)/python -m pytest -n 2 tests/unit

smoke: .venv/.test-installed .venv/.native ## A short run of the bench: does it work, do its checks hold (no peers, no bounds)
	$(BIN)/python -m pytest -q bench

fuzz: .venv/.test-installed .venv/.native ## The parsers under fresh examples; MINUTES=10, FUZZ_ARGS="-k proof"; prints how to repeat what fails
	@end=$$(( $$(date +%s) + 60 * $(or $(MINUTES),10) )); \
	while [ $$(date +%s) -lt $$end ]; do \
		FUZZ_PROFILE=long $(BIN)/python -m pytest -q -x --timeout=3600 tests/fuzz $(FUZZ_ARGS) || exit 1; \
	done

bench: .venv/.bench-installed .venv/.native ## Every figure against its limit and its peers, some 25 minutes; BENCH_ARGS="--figure relay" for one
	$(BIN)/python -m bench $(BENCH_ARGS)

simulate: .venv/.test-installed ## Faults of every kind, by seeds: SEEDS=10 (a count) or 4-9, SEED=14, MINUTES=30, JSON=file
	$(BIN)/python -m tests.simulation $(and $(SEED),--seeds "$(SEED)$(COMMA)") $(and $(SEEDS),--seeds "$(SEEDS)") \
		$(and $(MINUTES),--minutes "$(MINUTES)") $(and $(JSON),--json "$(JSON)")

journal: .venv/.test-installed ## Record the migrations' hashes in schema/journal.json, and what they make in schema/catalog.json
	$(BIN)/python tools/journal.py
	$(BIN)/python -m tools.catalog

migration: .venv/.test-installed ## Write the next migration from schema/declared: NAME=what_it_does; without NAME check
	@$(BIN)/python -m tools.migration "$(NAME)"

constraints: ## Pin the dependencies anew, versions kept; UPGRADE=--upgrade raises them (needs uv)
	@command -v "$(UV)" >/dev/null 2>&1 || { echo "make constraints needs uv: install it, or name it with UV=" >&2; exit 1; }
	echo 'pip>=26.3' | "$(UV)" pip compile - pyproject.toml --no-config $(EXTRAS:%=--extra %) --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command 'make constraints' $(UPGRADE) --quiet --output-file constraints.txt

wheel: .venv/.test-installed ## Both wheels, into dist: auditledger, and auditledger-native (needs cargo)
	$(BIN)/python -m build --no-isolation --wheel --outdir dist .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m build --no-isolation --wheel --outdir dist native

clean: ## Remove .venv, caches and built files; the data in .ledger stays
	rm -rf native/target .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that has no pip, or a Python too old, is made anew.
.venv/.pip: constraints.txt
	@if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		command -v $(PYTHON) >/dev/null 2>&1 \
			|| { echo "error: $(PYTHON) is not found: install Python 3.11 or newer, or name one with PYTHON=" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
			|| { echo "error: $(PYTHON) is older than 3.11: name a newer one, as in make PYTHON=python3.12" >&2; exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
			|| { echo "error: $(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)" >&2; exit 1; }; \
		echo "Making .venv"; \
		$(PYTHON) -m venv --clear .venv; \
	fi
	@sed -n '/^pip==/,/[^\\]$$/p' constraints.txt > .venv/pip.txt
	@$(PIP) install --require-hashes -r .venv/pip.txt
	@touch $@

.venv/.project: .venv/.pip pyproject.toml
	@echo "Installing auditledger"
	@$(PIP) install $(PINNED) hatchling
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The project is there already, so that only its dependencies are fetched, and no hash of itself is asked for.
.venv/.installed: .venv/.project
	@echo "Installing its dependencies"
	@$(PIP) install $(PINNED) 'auditledger[embedded]'
	@touch $@

.venv/.test-installed: .venv/.installed
	@echo "Installing what the tests need"
	@$(PIP) install $(PINNED) 'auditledger[test,migrations]'
	@$(PIP) install $(PINNED) 'auditledger[verifiers]' || echo "The verifiers of others are not to be had here: their tests are skipped"
	@touch $@

# The native core, from native/, by cargo and its crates alone. Without cargo everything works, more slowly.
.venv/.native: .venv/.installed native/Cargo.toml native/Cargo.lock native/pyproject.toml $(wildcard native/src/*.rs)
	@if command -v $(CARGO) >/dev/null 2>&1; then \
		echo "Building the native core"; \
		$(PIP) install $(PINNED) maturin \
			&& PATH="$(CURDIR)/$(BIN):$$PATH" MATURIN_PEP517_ARGS=--locked \
				$(PIP) install --no-deps --no-build-isolation --force-reinstall ./native; \
	else \
		echo "cargo is not found: going without the native core"; \
	fi
	@touch $@

.venv/.bench-installed: .venv/.installed
	@echo "Installing the bench's peers"
	@$(PIP) install $(PINNED) 'auditledger[bench]'
	@touch $@
