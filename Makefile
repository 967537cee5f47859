# make demo, test, test-all, test-long, campaigns, coverage, lint, bench, docs; all of them install into VENV first when something changed.
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs

.PHONY: demo test test-all test-long campaigns coverage lint bench docs clean

# Two processes; a module stays in one, and those that take longest start first.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

demo: $(INSTALLED)
	$(VENV)/bin/raydistill run jobs/demo.yaml

# What every change runs: all that needs no Ray, and one test of each kind that does.
test: $(INSTALLED)
	$(PYTEST) $(PYTEST_OPTIONS)

# The rest that runs unattended. What starts clusters of several hosts or with a dashboard runs alone.
REST := -m "slow and not core and not long and not exhaustive"
OWN_CLUSTERS := tests/cluster tests/integration/cluster
test-all: $(INSTALLED)
	$(VENV)/bin/python -m pytest $(OWN_CLUSTERS) $(REST) $(PYTEST_OPTIONS)
	$(PYTEST) $(addprefix --ignore=,$(OWN_CLUSTERS)) $(REST) $(PYTEST_OPTIONS)

# What takes too long for every change: kills at random moments, several worker counts, more whole jobs, full products of options.
test-long: $(INSTALLED)
	$(PYTEST) -m exhaustive
	$(VENV)/bin/python -m pytest -m long --timeout 3000

# By hand, for hours: odd jobs, odd data files and kills, until a forbidden outcome; see tests/campaigns/README.md.
campaigns: $(INSTALLED)
	@set -e; for campaign in fuzz_jobs fuzz_data kill_jobs; do $(VENV)/bin/python tests/campaigns/$$campaign.py; done

# Which lines of the package make test and make test-all run.
coverage: $(INSTALLED)
	$(VENV)/bin/coverage erase
	$(MAKE) test test-all PYTEST_OPTIONS="--cov --cov-append --cov-report= $(PYTEST_OPTIONS)"
	$(VENV)/bin/coverage report

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Each benchmark prints one JSON line a figure: name, value, unit, bound, met.
bench: $(INSTALLED)
	@set -e; for benchmark in $(sort $(wildcard tests/benchmarks/*.py)); do $(VENV)/bin/python $$benchmark; done

# The documentation's site, in site/. A warning, a link to nothing and a page that loads from the network end it.
docs: $(INSTALLED_DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site platform/*.egg-info

$(INSTALLED): pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raydistill needs Python 3.11 or newer; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --constraint .ci/constraints.txt --editable '.[docs]'
	touch $@
