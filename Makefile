# Everything happens in a virtual environment inside the checkout. All that is
# needed beforehand is make and Python 3.11 or newer.

PYTHON ?= python3
DEMO_DIR ?= results/demo

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TRACKERS := $(VENV)/.installed-trackers
EXTRAS := data,docs,export,plot,privacy,tensorboard,test
# One worker per core, see tests/conftest.py.
PYTEST_ARGS ?= -n auto --maxprocesses=8
PYTEST := $(BIN)/python -m pytest --durations=15

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test test-all test-long test-browser lint docs demo clean

help:
	@echo 'make setup     create $(VENV) and install everything into it'
	@echo 'make test      set up and run the tests (PYTEST_ARGS="-k name")'
	@echo 'make test-all  set up and run those that take long'
	@echo 'make test-long set up and run further cases of these, for 1.5 hours'
	@echo 'make test-browser set up and run tests that need Chromium'
	@echo 'make lint      set up and check style and types'
	@echo 'make docs      set up and build the site of the documentation'
	@echo 'make demo      set up and run the demonstration (DEMO_DIR=$(DEMO_DIR))'
	@echo 'make clean     remove $(VENV) and all caches'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter of $(VENV).'

# The stamp is older than the files only if one of them changed since: a second
# run installs nothing.
$(INSTALLED): setup.cfg constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'error: $(PYTHON) not found; need Python 3.11 or newer:' \
	    'make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "error: $(PYTHON) is Python %d.%d; need 3.11 or newer: " % v[:2] \
	  + "make PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

# The clients of wandb and MLflow, which few need and which bring 40 packages.
$(TRACKERS): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS),callbacks]'
	@touch $@

setup: $(INSTALLED)

test: setup
	$(PYTEST) -m 'not slow and not long and not browser' $(PYTEST_ARGS)

# Not once more what `make test` runs.
test-all: setup $(TRACKERS)
	$(PYTEST) -m 'slow and not long' $(PYTEST_ARGS)

# Every method and every combination, where `test-all` has one of each kind:
# before a release, and after a change of the engine.
test-long: setup
	$(PYTEST) -m long $(PYTEST_ARGS)

# Of reports, in a browser: needs Chromium (on Debian `apt install chromium`).
test-browser: setup
	$(PYTEST) -m browser -n 0

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# Warnings are errors: a link that leads nowhere, a docstring that is none.
docs: setup
	$(BIN)/python -m sphinx -W --keep-going --quiet -d build/doctrees docs \
	  build/docs
	@echo 'The site is in $(abspath build/docs)'

demo: setup
	$(BIN)/python -m experiments.demo --workdir=$(DEMO_DIR) --restart
	@echo 'Results are in $(abspath $(DEMO_DIR))'

clean:
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
