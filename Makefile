# `make demo` and `make test` need Python 3.11 or newer and make; everything else they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests of so many files at a time; more threads in each would only wait for one another.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo up test test-fast chaos bench-embedder bench-search bench-feedback bench-learning bench-learning-short bench-scale bench-unseen lint format protos clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

demo: $(VENV)/.demo ## Run the whole loop on sample films: index, thumbs, train, gate, swap, measure.
	$(BIN)/diapason demo

up: $(VENV)/.demo ## Run the embedded stack until Ctrl-C.
	$(BIN)/diapason up

test: $(VENV)/.dev ## Run all tests, with real processes, on two cores.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.dev ## Run the tests that need neither a stack nor training.
	$(BIN)/python -m pytest -m "not slow"

chaos: $(VENV)/.dev ## Kill search at random, 200 times over, and see that it keeps its word (half an hour).
	$(BIN)/python -m tests.chaos --seeds 200 --from 0 --jobs 2

bench-embedder: $(VENV)/.demo ## Measure the embedder against its ceiling and sentence-transformers (8 minutes).
	$(BIN)/python -m benchmarks.embedder

bench-search: $(VENV)/.demo ## Measure search against the sum of its parts (10 minutes).
	$(BIN)/python -m benchmarks.search

bench-feedback: $(VENV)/.demo ## Measure how fast feedback becomes durable, against SQLite alone (2 minutes).
	$(BIN)/python -m benchmarks.feedback

bench-learning: $(VENV)/.demo ## Measure what tuning gains on test queries (hours; goes on where it was stopped).
	$(BIN)/python -m benchmarks.learning --work .bench-learning

bench-learning-short: $(VENV)/.demo ## The same of fifty judgments only, as they are and with wrong ones (10 minutes).
	$(BIN)/python -m benchmarks.learning --work .bench-learning --results .bench-learning --parts curve --judgments 50 --seeds 17

bench-scale: $(VENV)/.demo ## Measure how the embedded engine grows, to a million vectors (half an hour, 10 GB of disk).
	$(BIN)/python -m benchmarks.scale

bench-unseen: $(VENV)/.demo ## Measure whether tuning helps for films without any feedback.
	$(BIN)/python -m benchmarks.unseen_films

lint: $(VENV)/.dev ## Check style, types, contracts and boundaries.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py --check

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.dev ## Generate the Python contracts from protos/.
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/generate.py

clean: ## Remove the environment and caches (data folders stay).
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first and by its exact version, so that no other requirement chooses a build of it.
$(VENV)/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
