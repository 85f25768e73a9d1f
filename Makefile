# Holdfast's front door. Needs make and a Python of 3.11 or newer; everything else comes from requirements.lock.
# `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
# Two stamps: a changed lock makes the environment anew, a changed pyproject.toml only installs the project again.
LOCK_STAMP := $(VENV)/.lock-stamp
PROJECT_STAMP := $(VENV)/.project-stamp

# The Python that makes the environment; `make setup PYTHON=/path/to/python` chooses another one.
# Empty: scripts/find-python takes the newest that really runs.
PYTHON ?=

# How many processes run the tests.
JOBS ?= 2
# Whoever has nothing left to do takes tests from the other: single tests take seconds, and they stand together.
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal
# More words for pytest, e.g. `make test ARGS='-k label -x'`.
ARGS ?=

# Pip must not look for a newer pip.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Pyright comes whole in its wheel; it must not look for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup demo test check test-crash test-tape-vm bench format lock clean

help: ## list these targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(PROJECT_STAMP) ## make .venv from requirements.lock (at once if nothing changed)

$(LOCK_STAMP): requirements.lock
	@python="$$(scripts/find-python $(PYTHON))"; \
	echo "setup: $$("$$python" --version) makes $(VENV)"; \
	"$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@echo "$(CURDIR)" > $@

$(PROJECT_STAMP): $(LOCK_STAMP) pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: done"

# An environment whose Python is gone, or that was made in another folder, is made anew.
ifneq ($(wildcard $(LOCK_STAMP)),)
ifneq ($(shell $(BIN)/python -c '' 2>/dev/null && cat $(LOCK_STAMP)),$(CURDIR))
.PHONY: $(LOCK_STAMP)
endif
endif

demo: setup ## archive SOURCE=DIR to VAULT=DIR, restore it and compare
	@scripts/demo.sh

test: setup ## the tests without the long crash enumerations
	$(PYTEST) -m "not crash" $(ARGS)

check: setup ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

test-crash: export HOLDFAST_CRASH_SHARE ?= 1.0
test-crash: setup ## the crash enumerations; HOLDFAST_CRASH_SHARE=0.1 runs a tenth of them
	$(PYTEST) -m crash $(ARGS)

test-tape-vm: setup ## the tape tests on real drivers: a virtual machine with an emulated library
	$(BIN)/python -m tests.tapevm.run $(ARGS)

bench: setup ## the benchmarks
	$(BIN)/python benchmarks/run.py $(ARGS)

format: setup ## format the code and mend what ruff can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: ## renew requirements.lock (installs uv in a throw-away environment)
	@scripts/lock.sh $(PYTHON)

clean: ## remove .venv, build and caches
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
