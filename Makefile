# make demo, make test, make test-long, make lint, make bench; all of them install into VENV first when something changed.
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-long lint bench clean

demo: $(INSTALLED)
	$(VENV)/bin/raydistill run jobs/demo.yaml

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest $(PYTEST_OPTIONS)

# What takes too long for every change: kills at random moments, several worker counts.
test-long: $(INSTALLED)
	$(VENV)/bin/python -m pytest -m long --timeout 3000

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Each benchmark prints one JSON line a figure: name, value, unit, bound, met.
bench: $(INSTALLED)
	@set -e; for benchmark in $(sort $(wildcard tests/benchmarks/*.py)); do $(VENV)/bin/python $$benchmark; done

clean:
	rm -rf $(VENV) build dist platform/*.egg-info

$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raydistill needs Python 3.11 or newer; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@
