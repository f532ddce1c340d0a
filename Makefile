# `make demo` and `make test` each set up everything they need in .venv, once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/hrfr-fast
STAMP := $(VENV)/.ready

.PHONY: help demo test lint setup clean
help:
	@echo "make demo   make a small data tree, pack it, train highlow144, verify, write a report"
	@echo "make test   ruff, mypy and the tests"
	@echo "make setup  only the virtual environment in $(VENV)"
	@echo "make clean  remove the demo's output"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/setup.sh tools/install_ffcv.sh
	PYTHON="$(PYTHON)" ./tools/setup.sh $(VENV)
	@touch $@

demo: setup
	./tools/demo.sh $(RUN) demo

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest

clean:
	rm -rf demo
