# make setup | quickstart | test | test-all | check | format
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
GROUPS := browser or slurm or faults
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: setup quickstart test test-all test-browser test-slurm test-faults check format clean

$(VENV)/.core: setup.py pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two, about 2 GB) ..."
	@$(PIP) install -q -c constraints.txt -e ".[plots]"
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@

setup: $(VENV)/.dev

quickstart: $(VENV)/.core
	@$(BIN)/extes compare experiment=quickstart $(ARGS)

test: setup
	$(PYTEST) -m "not ($(GROUPS))" $(ARGS)

test-browser test-slurm test-faults: test-%: setup
	$(BIN)/python -m pytest -m $* $(ARGS)

test-all: test test-browser test-slurm test-faults

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache
