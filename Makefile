# Each target is enough on a fresh machine: it makes .venv, installs with the pinned constraints, and runs.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow test-kill test-fuzz lint types imports docs-check clean

demo: .venv/demo
	$(BIN)/condense run --method ftd --ipc 10 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

test: .venv/dev
	$(BIN)/python -m pytest

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

test-kill: .venv/dev
	$(BIN)/python -m pytest -m kill

test-fuzz: .venv/dev
	$(BIN)/python -m pytest -m fuzz

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

imports: .venv/dev
	$(BIN)/lint-imports

docs-check: .venv/dev
	$(BIN)/python -m pytest tests/test_docs.py tests/artifact/test_docs_snippet.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# torch first: alone, its pin picks the build that the machine's package index offers.
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	touch $@

.venv/demo: .venv/torch pyproject.toml
	$(INSTALL) --editable .
	touch $@

.venv/dev: .venv/torch pyproject.toml
	$(INSTALL) --editable '.[dev]'
	touch $@ .venv/demo
