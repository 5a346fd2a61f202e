# Every target sets up what it needs: a virtual environment in .venv with the package installed in place.
PYTHON ?= python3
# Extras of pyproject.toml to install; and a file of versions to keep to, as LOCK=requirements.lock.
EXTRAS ?= dev
LOCK ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(LOCK),--constraint $(LOCK))
# A process for each core, each with one thread: tiny tensors on many threads wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all check format docs docs-serve lock gpu-check gpu-static study-report count-kernels bench sample-corpus clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 22

.venv/installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "error: the venv module is missing; on Debian: apt-get install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(INSTALL) --editable '.[$(EXTRAS)]'
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

format: setup ## fix format and lint automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed-docs: .venv/installed
	$(INSTALL) --editable '.[docs]'
	@touch $@

docs: .venv/installed-docs ## build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: .venv/installed-docs ## serve the documentation, with live reload
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

study-report: setup ## rebuild the study's tables and figures from docs/data/study, and check each figure
	$(BIN)/python scripts/study_report.py > /dev/null
	$(BIN)/python scripts/study_check.py

lock: ## write the versions of a fresh installation into requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,docs]'
	{ echo "# The versions that were tested together, by make lock. Use: pip install -c requirements.lock s15erav3"; \
	  build/lock/bin/python -m pip freeze --exclude s15erav3 | sed -E 's/\+[A-Za-z0-9.]+$$//'; } > requirements.lock
	rm -rf build/lock

gpu-check: setup ## check everything on a GPU; writes build/gpu-check.json and a .md to paste into an issue
	@$(BIN)/s15erav3 doctor require_gpu=true output=build/gpu-check.json

gpu-static: ## the GPU path with fake tensors, without a GPU; installs the CUDA build of torch (5 GB) into .cuda-venv
	PYTHON=$(PYTHON) scripts/cuda_venv.sh .cuda-venv
	OMP_NUM_THREADS=1 .cuda-venv/bin/python -m pytest tests/gpu_static

count-kernels: ## kernels, bytes and FLOPs of a GPU's step of experiment=original, without a GPU; installs as gpu-static
	@PYTHON=$(PYTHON) scripts/cuda_venv.sh .cuda-venv
	@.cuda-venv/bin/python scripts/count_kernels.py
	@.cuda-venv/bin/python scripts/count_kernels.py experiment=original compile=true

bench: setup ## time training steps and generation against transformers
	$(BIN)/python scripts/bench_step.py
	$(BIN)/python scripts/bench_generate.py

sample-corpus: setup ## regenerate the bundled commentary
	$(BIN)/python scripts/make_sample_corpus.py

clean: ## remove the environment and caches, not the runs
	rm -rf .venv .cuda-venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
