# make demo: the main job end to end.  make test: the tests.
# Both make a virtual environment in .venv first and install what they need;
# later calls reuse it until a requirements file changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TORCH_INSTALLED := $(VENV)/torch_installed
WORKDIR ?= runs/people

.PHONY: help install demo test check scale ci coverage parity bench clean

help:
	@echo "make demo      make people, train, unlearn, report (WORKDIR=$(WORKDIR))"
	@echo "make test      look over form and types, and run the tests"
	@echo "make check     look over form and types alone"
	@echo "make scale     whole jobs on many devices and processes, and killed"
	@echo "make ci        test and scale in one go, as CI does"
	@echo "make coverage  run the tests and show what they cover"
	@echo "make parity    compare with transformers in torch (installs torch)"
	@echo "make bench     measure speed and memory; beside torch if installed"
	@echo "make clean     delete the virtual environment (runs/ stays)"

$(INSTALLED): requirements.txt requirements-dev.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(None if v >= (3, 11) else "mmu_jax needs Python 3.11 or newer, \
	  this is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/mmu pipeline --config=people --workdir=$(WORKDIR)

# Two processes, each with whole files (fixtures are made once) in our order.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile \
  --no-loadscope-reorder

test: check
	$(PYTEST)

# Form, common mistakes, and the types of the public functions.
check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Whole jobs in processes of their own: layouts beside kills.
scale: $(INSTALLED)
	$(PYTEST) -m scale tests/scale tests/kill

# test and scale in one go: no process waits for the end of the first.
ci: check
	$(PYTEST) -m 'scale or not scale'

# The core must be covered to 95 %; the report shows all of it.
CORE := mmu_jax/losses.py,mmu_jax/saliency/*,mmu_jax/masks.py,mmu_jax/tree.py,mmu_jax/transforms.py,mmu_jax/methods.py,mmu_jax/training/*

coverage: $(INSTALLED)
	$(PYTEST) --cov=mmu_jax --cov-report=term-missing:skip-covered
	$(BIN)/python -m coverage report --include='$(CORE)' --fail-under=95

$(TORCH_INSTALLED): requirements-parity.txt $(INSTALLED)
	$(BIN)/python -m pip install --quiet \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements-parity.txt
	@touch $@

parity: $(TORCH_INSTALLED)
	$(PYTEST) tests/parity

# A table, and runs/bench.json; BENCH=--full for larger models. On a GPU it
# measures 7B models.
bench: $(INSTALLED)
	$(BIN)/python tests/benchmarks/bench.py $(BENCH)

clean:
	rm -rf $(VENV) *.egg-info
