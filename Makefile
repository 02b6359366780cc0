# Every target does the set-up that it needs, in a virtual environment in .venv. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=

# What `make speak` says, and where to; more options of `smalle speak` go into SPEAK_ARGS.
TEXT ?= The quick brown fox jumps over the lazy dog.
OUT ?= speech.wav
SPEAK_ARGS ?=
export SPEAK_TEXT := $(value TEXT)

# Linux wheels of torch carry gigabytes of CUDA libraries by default, so a machine without a GPU gets this build, from the
# indexes that pip is configured with or else from PyTorch's own one.
TORCH_CPU ?= torch==2.13.0+cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Holds the build of torch that was installed, as a constraint for everything that is installed after it.
TORCH := $(VENV)/torch.txt
# The test processes share the cores: with more threads than these they only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help speak demo test test-fast lint bench clean
.DELETE_ON_ERROR:

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1#\2/p' $(MAKEFILE_LIST) | awk -F '#' '{printf "  %-16s %s\n", $$1, $$2}'

demo: $(VENV)/.user  ## Learn a few short clips by heart and speak them again, on a CPU in under three minutes
	@$(PY) examples/demo.py

speak: $(VENV)/.user  ## Speak TEXT="..." into OUT (speech.wav)
	@$(VENV)/bin/smalle speak --output '$(OUT)' $(SPEAK_ARGS) -- "$$SPEAK_TEXT"

test: $(VENV)/.dev  ## Run all tests
	-@$(PY) tests/common/fetch_transformers_tests.py
	@$(PYTEST)

test-fast: $(VENV)/.dev  ## Run the tests that take less than ten seconds each
	@$(PYTEST) -m "not slow"

lint: $(VENV)/.dev  ## Check style, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: $(VENV)/.user  ## Measure speed and memory
	@for script in $$(grep -l __main__ examples/benchmarks/*.py); do echo "== $$script"; $(PY) "$$script" --quick || exit 1; done

clean:  ## Remove the virtual environment and all that was built or cached
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

$(TORCH):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: name one with 'make PYTHON=python3.12 ...'." >&2; exit 1; }
	@echo "Creating a virtual environment in $(VENV) and installing torch ..."
	@$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" != Linux ] || command -v nvidia-smi > /dev/null; then \
		$(PIP) install 'torch>=2.6'; \
	else \
		$(PIP) install '$(TORCH_CPU)' 2> /dev/null || \
		$(PIP) install --index-url $(TORCH_CPU_INDEX) '$(TORCH_CPU)' || \
		{ echo "No CPU build of torch for this Python: set PYTHON, TORCH_CPU or TORCH_CPU_INDEX." >&2; exit 1; }; \
	fi
	@$(PY) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $@

$(VENV)/.user: $(TORCH) pyproject.toml
	@echo "Installing smalle-hf with what training and the examples need ..."
	@$(PIP) install --constraint $(TORCH) --editable '.[train]'
	@touch $@

$(VENV)/.dev: $(TORCH) pyproject.toml
	@echo "Installing smalle-hf with everything that its tests need ..."
	@$(PIP) install --constraint $(TORCH) --editable '.[dev]'
	@touch $@ $(VENV)/.user
