# make demo   the whole chain, from images to answers of a real Triton (a few minutes on two cores)
# make test   every test that is not marked slow, a process on each core; make test-all adds those, one by one
# make check  formatting, lint, types, import contracts

PYTHON ?= python3
SHARED := -n logical --maxprocesses 4 --no-loadscope-reorder --max-worker-restart 0
BIN := .venv/bin
export PYTHONWARNINGS ?= ignore::FutureWarning

.PHONY: demo test test-all check clean

demo: .venv/installed
	$(BIN)/kdx serve install
	$(BIN)/kdx demo --out kdx-demo --overwrite

test: .venv/installed-dev
	$(BIN)/kdx serve install
	$(BIN)/python -m pytest $(SHARED)

test-all: .venv/installed-dev
	$(BIN)/kdx serve install
	$(BIN)/python -m pytest $(SHARED)
	$(BIN)/python -m pytest -m slow

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

.venv/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdx needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,cpu]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,cpu,dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info kdx-demo
