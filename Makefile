# Every target works on a fresh machine with python3 >= 3.11, venv, make and git. Start with `make demo`.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench proto lock clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Moot needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP) ## make .venv with the locked dependencies and this checkout in it

demo: $(STAMP) ## three nodes, real traffic, the leader killed, nothing lost
	$(BIN)/moot demo $(ARGS)

test: $(STAMP) ## the whole test suite, on every core (one layer: make test ARGS=tests/raft)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(STAMP) ## format, lint, types, layers, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python proto/generate.py --check

bench: $(STAMP) ## throughput and latency of a local three-node cluster
	$(BIN)/moot bench $(or $(ARGS),send)

proto: $(STAMP) ## regenerate cluster/v1 from proto/
	$(BIN)/python proto/generate.py

lock: ## refresh requirements.lock (needs uv)
	@printf '# Exact versions of everything that Moot runs on and is built with. Refresh with `make lock`.\n' > requirements.lock.new
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url --quiet >> requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## remove the venv and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
