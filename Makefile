# `make demo` and `make test` each set up what they need in .venv, once: the demo no more than it uses.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/hrfr-fast
SETUP := pyproject.toml constraints.txt tools/setup.sh
FOR_DEMO := $(VENV)/.ready-demo
FOR_TESTS := $(VENV)/.ready

.PHONY: help demo test lint coverage docs setup clean audit fuzz
help:
	@echo "make demo   make a small data tree, pack it, train highlow144, verify, write a report"
	@echo "make test   ruff, mypy and the tests"
	@echo "make docs   the documentation site -> build/site/index.html; any broken link is an error"
	@echo "make coverage  the tests, and which lines of the package they execute"
	@echo "make audit  known vulnerabilities of the pinned dependencies; needs the network"
	@echo "make fuzz   a minute of coverage-guided fuzzing for each parser of files"
	@echo "make setup  only the virtual environment in $(VENV), with everything: DALI, FFCV, tools"
	@echo "make clean  remove the output of demo and docs"

setup: $(FOR_TESTS)

$(FOR_TESTS): $(SETUP) tools/install_ffcv.sh
	PYTHON="$(PYTHON)" ./tools/setup.sh $(VENV) tests
	@touch $@ $(FOR_DEMO)

$(FOR_DEMO): $(SETUP)
	PYTHON="$(PYTHON)" ./tools/setup.sh $(VENV) demo
	@touch $@

demo: $(FOR_DEMO)
	./tools/demo.sh $(RUN) demo

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python tools/run_tests.py

coverage: setup
	$(VENV)/bin/python -m pytest --cov --cov-report=term:skip-covered

docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

audit:
	$(PYTHON) tools/audit.py

fuzz: setup
	$(VENV)/bin/python -m pip install --quiet "atheris>=2.3,<4"
	$(VENV)/bin/python tools/fuzz.py --seconds 60

clean:
	rm -rf demo build/site
