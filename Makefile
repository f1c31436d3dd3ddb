# Every target sets up what it needs: only Python 3.11 to 3.13, Java 17+ and the package registries are presupposed.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.8
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
BIN := .venv/bin
SET_UP = PYTHON="$(PYTHON)" UV="$(UV)" UV_VERSION="$(UV_VERSION)" bash scripts/setup.sh

.PHONY: help setup run test format lock db-start db-stop clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "make %-10s %s\n", $$1, $$2}'

setup: .jars/classes.jsa  ## Python packages and jars, into this folder only

.venv/.ready: requirements.lock pyproject.toml conf/jars.xml conf/jars-settings.xml scripts/setup.sh
	@$(SET_UP)

.jars/.ready: .venv/.ready  # missing where .jars was removed
	@[ -e $@ ] || $(SET_UP)

.jars/classes.jsa: .jars/.ready
	@$(BIN)/python -m scripts.class_archive

run: setup  ## all sources on sample data (or on what the landing folder holds), raw to Postgres
	@$(BIN)/assay run --sample-if-empty || [ $$? -eq 3 ]  # 3: done, but raw files were set aside (the samples have some)

test: setup  ## lint, types and all tests
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/pytest -n 2 --dist loadgroup

format: setup  ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: setup  ## pin the newest allowed packages anew
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --extra dev pyproject.toml -o requirements.lock --custom-compile-command "make lock" --upgrade

db-start: setup  ## start the embedded Postgres
	@$(BIN)/assay db start

db-stop: setup  ## stop the embedded Postgres
	@$(BIN)/assay db stop

clean:  ## stop the embedded Postgres and remove all that make and runs have created (data/ too)
	@if [ -x $(BIN)/assay ]; then $(BIN)/assay db stop; fi
	rm -rf .venv .tools .jars .jars.new .setup.lock data .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse *.egg-info
