# Every target makes or refreshes .venv by itself, from pyproject.toml and constraints.txt.
# Options of the called program go into ARGS:  make test ARGS='-k hamiltonian'

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench mutations

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## train on real handwritten digits; table, figures and an ArviZ file
	@$(BIN)/ppl-models demo $(ARGS)

test: $(STAMP) ## run the whole test suite, doctests included
	@$(BIN)/pytest $(ARGS)

lint: $(STAMP) ## ruff, mypy, and who may import whom
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

docs: $(STAMP) ## build the pages into docs/_build/html; a warning is an error
	@$(BIN)/sphinx-build --quiet --jobs auto --fresh-env --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(STAMP) ## print the numbers the project answers for
	@$(BIN)/python -m benchmarks $(ARGS)

mutations: $(STAMP) ## break the code in the listed ways and see the tests go red
	@$(BIN)/python -m tests.mutations $(ARGS)

# The stamp is written last and removed first: without it the environment counts as half-made, and is made anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is none; name another: make PYTHON=python3.12" >&2; \
		exit 1; }
	@echo "Setting up $(VENV); the first time takes some minutes." >&2
	@if test -e $@ && $(BIN)/python -c ''; then rm $@; else rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); fi
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt hatchling
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt \
		--no-build-isolation --editable '.[bench,dev,docs,loggers]'
	@touch $@
