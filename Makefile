# Two commands do all the set-up: `make demo` and `make test`. Both may be run again, and are fast then.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUESTION ?= Sara reads 15 pages a day for 6 days and then 20 pages a day for 3 days. How many pages did she read?

# Test processes: a core each, at most four by default, since each takes up to two gigabytes.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-fast test-slow test-browser lint bench attack site release clean
.DELETE_ON_ERROR:

# The model is fetched, and its 4-bit base made, while llama.cpp compiles.
demo: $(VENV)/.light
	@$(BIN)/python tools/together.py \
	  build "$(MAKE) -s $(VENV)/.runtime" model "PYTHONPATH=src $(BIN)/python -m edgereason pull"
	$(BIN)/edgereason ask "$(QUESTION)" --streams 4 --budget 320 --seed 1

test: $(VENV)/.dev lint
	$(PYTEST) -n $(WORKERS) --dist worksteal

# What needs no model and no torch: for work in progress.
test-fast: $(VENV)/.dev
	$(PYTEST) --fast -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow --timeout 3600

# The page in a real browser: Debian's chromium package, or CHROMIUM, a path; npm fetches axe-core.
test-browser: $(VENV)/.dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(PYTEST) -m browser tests/browser

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/edgereason bench engine --json

# docs/ as pages, in build/site; a link that leads nowhere is an error.
site: $(VENV)/bin/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$$(sed -n 's/^site = \["\([^"]*\)".*/\1/p' pyproject.toml)"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Checks, builds and tries what is released; it tags and uploads nothing.
release: $(VENV)/.dev
	$(BIN)/python tools/release.py

# Kills, damaged files, senseless command lines, many requests; a trial of minutes: make attack ATTACK="--scale 0.1"
attack: $(VENV)/.dev
	$(BIN)/python -m tools.attack $(ATTACK)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "edgereason needs Python 3.11 or newer; say which with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# All that the runtime stands on but llama.cpp: enough to fetch a model and to make a base of it.
$(VENV)/.light: pyproject.toml | $(VENV)/bin/python
	@sed -n '/^dependencies/,/^]/s/^ *"\([^"]*\)".*/\1/p' pyproject.toml | grep -v llama > $(VENV)/light.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -r $(VENV)/light.txt
	@touch $@

# The native part by itself, so that its minutes show progress.
$(VENV)/.native: $(wildcard tools/native/*.* tools/native/kernels/*) | $(VENV)/.light
	$(BIN)/python tools/native/install.py "$$(sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' pyproject.toml)"
	@touch $@

$(VENV)/.runtime: $(VENV)/.native pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
