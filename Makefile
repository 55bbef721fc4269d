# Development commands. `make check` is what every change must pass; set BIN where the environment is not .venv.
BIN ?= .venv/bin
export BIN

.PHONY: check setup lint format test docs lines

check: lint test  ## Lint, types and tests.

setup:  ## Create .venv with everything that `make check` needs.
	python3 -m venv .venv
	.venv/bin/pip install -q -e '.[test,dev]'

lint:  ## Ruff, formatting and mypy.
	.ci/lint

format:  ## Fix what ruff can fix, and format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test:  ## All tests.
	$(BIN)/pytest -n 2

docs:  ## The documentation site, in site/; a warning is an error.
	$(BIN)/pip install -q -e '.[docs]'
	$(BIN)/mkdocs build --strict

lines:  ## Count lines of code.
	$(BIN)/python benchmarks/count_lines.py
