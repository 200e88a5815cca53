# Everything runs in .venv, which is made on first use with any Python from 3.11 on. `make` alone lists the targets.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

# Neither tool asks the network for news of itself.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-all check bench docs mutants

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## pull a small language model and compare attention methods on it
	$(BIN)/regard models pull smollm2-135m
	$(BIN)/regard compare

test: $(VENV)/.installed-test ## the tests that are not slow; ARGS="..." goes to pytest, WORKERS=N processes
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow' $(ARGS)

test-all: $(VENV)/.installed-test ## every test; ARGS="..." goes to pytest
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: $(VENV)/.installed-test ## lint, format, types and the floors that imports may cross
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.installed ## measure the engines side by side; writes benchmarks/results/
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed-docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

mutants: $(VENV)/.installed-test ## seed faults into the code; every one must be caught by a test
	$(BIN)/python -m tests.mutants

# Stamps say what is installed: a change of versions installs again, and a run that was cut short is taken up again.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "regard needs Python 3.11 or later with its venv module, and none was found." \
		"Install one (on Debian: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[all,test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.made pyproject.toml constraints.txt
	$(INSTALL) -e '.[all,docs]'
	@touch $@ $(VENV)/.installed
