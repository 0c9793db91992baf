PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
STAMP := $(VENV)/.installed

.PHONY: help install serve test lint format bench train clean loadtest

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP) ## Create .venv with pinned dependencies (idempotent)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt "setuptools>=77" wheel
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	touch $(STAMP)

serve: install ## Serve the embedded default on 127.0.0.1:$(PORT)
	$(BIN)/headstart serve --port $(PORT)

test: install ## Run all tests, a module at a time on each core (four at most)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: install ## Check style, docstrings and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Run one benchmark: make bench NAME=resume
	@test -n "$(NAME)" || { echo "which benchmark? make bench NAME=resume; all of them: $(BIN)/python -m benchmarks --help" >&2; exit 2; }
	$(BIN)/python -m benchmarks $(NAME) --json

loadtest: install ## A short load test of the service on $(PORT), or of one it starts; report in var/loadtest
	$(BIN)/python -m loadtest --host http://127.0.0.1:$(PORT) --out var/loadtest $(ARGS)

train: install ## Train the shipped models again from nothing
	$(BIN)/python -m training

clean: ## Remove the environment and everything built (not var: that is the cache)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
