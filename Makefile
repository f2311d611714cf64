# make atlas   every head of the default model, measured, ablated and named (plain install, no torch)
# make test    everything CI runs: ruff, pyright, pytest (with the notebooks and the README's blocks)
# make env     the plain install alone;  make clean   removes what these made, keeps results/

PYTHON ?= python3
ATLAS ?=
PYTEST ?= -q -n 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: atlas test env clean
.DELETE_ON_ERROR:

atlas: .venv/.plain
	$(BIN)/jaxheads atlas $(ATLAS)

test: export JAX_PLATFORMS := cpu
test: export HF_HUB_OFFLINE := 1
test: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
test: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest $(PYTEST)

env: .venv/.plain

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jaxheads needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv

# The stamps: an environment is installed again only when pyproject.toml has changed.
.venv/.plain: pyproject.toml | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(PIP) --editable '.[test]'
	@touch .venv/.plain $@
