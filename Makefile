# Needs only Python >= 3.11 and make. Everything is installed into .venv, once.

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test nightly lint docs bench clean

setup: .venv/.setup

.venv/.setup: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=…")'
	@echo "setting up .venv (once, a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -e '.[test]'
	@touch $@

.venv/.lint: .venv/.setup
	@$(INSTALL) -e '.[test,lint]'
	@touch $@

demo: .venv/.setup
	@$(BIN)/perpflow demo --out demo-data

test: .venv/.setup
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not nightly" $(TESTS)

nightly: .venv/.setup
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(TESTS)

lint: .venv/.lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -p ingest -p aggregate -p publish -m perpflow

docs: .venv/.setup
	@$(BIN)/python -m publish.metrics_table > docs/metrics.md.new
	@mv docs/metrics.md.new docs/metrics.md
	@$(BIN)/python -m deploy.grafana.generate

.venv/.bench: .venv/.setup
	@$(INSTALL) -e '.[test,bench]'
	@touch $@

bench: .venv/.bench
	@$(BIN)/python -m benchmarks.run

clean:
	rm -rf .venv build dist *.egg-info demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
