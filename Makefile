# Every target sets up what it needs: a virtual environment in .venv with the package installed in place.
PYTHON ?= python3
BIN := .venv/bin
# A process for each core, each with one thread: tiny tensors on many threads wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all check format bench sample-corpus clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 22

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "error: the venv module is missing; on Debian: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: .venv/installed ## install into .venv

train: setup ## train the default experiment, offline, on bundled text
	$(BIN)/s15erav3 train

test: setup ## the fast tests (minutes)
	$(PYTEST) -m "not slow"

test-all: setup ## all tests, as CI runs them
	$(PYTEST)

check: setup ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## mend format and lint where it can be done by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## time training steps and generation against transformers
	$(BIN)/python scripts/bench_step.py
	$(BIN)/python scripts/bench_generate.py

sample-corpus: setup ## write the bundled commentary anew
	$(BIN)/python scripts/make_sample_corpus.py

clean: ## remove the environment and caches, not the runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
