# simgap: `make study` does the main job, `make test` passes the tests; each sets up all it needs under .venv and .simgap.
SHELL := bash
STUDY ?= icons
export PYTHONPATH := $(CURDIR)
UV := .simgap/uv/bin/uv
RUN := .venv/bin

.PHONY: study up down test test-store lint bench clean

study: .venv/ready  ## go through a study (STUDY=icons) and show what came of it
	@$(RUN)/python -m operators.console $(STUDY)

up: .venv/ready  ## start the Airflow web UI on 127.0.0.1
	@$(RUN)/python -m operators.webserver up

down:  ## stop every process that `make up` started
	@if [ -x $(RUN)/python ]; then $(RUN)/python -m operators.webserver down; fi

test: .venv/ready lint  ## what can be tested without a cluster or a bucket
	@$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/study tests/unit tests/sql

test-store: .venv/ready  ## the store on a real MinIO: `minio` on the PATH, or SIMGAP_TEST_S3
	@$(RUN)/python -m pytest tests/store

lint: .venv/ready
	@$(RUN)/ruff check -q .
	@$(RUN)/ruff format -q --check .
	@$(RUN)/pyright --pythonpath $(RUN)/python

bench: .venv/ready  ## ratios, side by side in one run
	@for bench in tests/bench/bench_*.py; do PYTHONPATH=tests:tests/store $(RUN)/python $$bench; done

clean:  ## remove what was built; the store stays
	@rm -rf .venv .simgap/uv

.venv/ready: pyproject.toml uv.lock | $(UV)
	@echo "setting up the locked environment in .venv"
	@$(UV) sync --quiet --locked --all-extras --compile-bytecode
	@touch $@

$(UV):
	@echo "setting up uv in .simgap"
	@python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .simgap/uv "uv==0.13.9"
