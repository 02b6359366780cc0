# Every target does the set-up that it needs, in a virtual environment in .venv. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=

# A CPU build of torch, because the default one for Linux carries gigabytes of CUDA libraries.
TORCH_CPU ?= torch==2.13.0+cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Workers of pytest-xdist share the cores: more threads than that spin against each other.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint bench clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(VENV)/.dev  ## Learn two short clips by heart and speak them again (three minutes on a CPU)
	@$(PY) examples/demo.py

test: $(VENV)/.dev .cache/transformers-tests  ## Run the whole test suite
	@$(PYTEST)

test-fast: $(VENV)/.dev  ## Run the test suite without the slow tests
	@$(PYTEST) -m "not slow"

lint: $(VENV)/.dev  ## Check style, formatting and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: $(VENV)/.dev  ## Measure speed and memory
	@for script in examples/benchmarks/*.py; do echo "== $$script"; $(PY) $$script --quick || exit 1; done

clean:  ## Remove the virtual environment and everything that was built or cached
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
