# make certify    certify this CPU: real vLLM, smoke profile; the exit code tells the verdict
# make test       lint, types, the tests
.DEFAULT_GOAL := help
SHELL := bash
BIN := .venv/bin
DEVICE ?= cpu
PROFILE ?= smoke
ARGS ?=

# The folders of the runs that git tracks. Users' runs lie below reports/, too, and no shipped file is made from those.
KEPT = $(sort $(dir $(shell git ls-files -- 'reports/*/certificate.json')))

.PHONY: help setup certify test test-long release-check trust lint format lock times releases clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16
	@echo
	@echo "certify takes DEVICE=$(DEVICE) PROFILE=$(PROFILE) ARGS='--suite batch_invariance -k needle ...'"

setup: ## make .venv from requirements/cpu.lock (nothing to do when it is there)
	@scripts/setup_env.sh

# Not one line more after run: its exit code is make's (make itself ends with 2 whenever it is not 0, and says
# which it was: "Error 1" not certified, "Error 6" inconclusive, "Error 75" infrastructure).
certify: setup ## certify this host's CPU; reports go to reports/
	@$(BIN)/bi-harness run --device $(DEVICE) --profile $(PROFILE) $(ARGS)

# Engines take every core, so their tests run one after the other.
test: setup lint ## lint, types, then the tests, real engines included
	$(BIN)/python -m pytest tests -m "not (engine or alone or ray or long)" -n 2 --dist loadgroup $(ARGS)
	$(BIN)/python -m pytest tests -m "alone or ((engine or ray) and not long)" $(ARGS)

test-long: setup ## the slow tests, most of them with more engines: before a release
	$(BIN)/python -m pytest tests -m long $(ARGS)

# Not part of test: development must not wait for self-tests, which take an hour.
release-check: setup ## whether every suite's recorded self-test is complete and current: before a release
	@$(BIN)/bi-harness selftest --check $(ARGS)

trust: setup ## the figures that certificates' trust rests on: tampering, mutations, kills, fuzzing, hostile names
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/trust.txt
	$(BIN)/python -m benchmarks.trust $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## write requirements/*.lock anew (ARGS=--upgrade takes newer versions)
	scripts/lock.sh $(ARGS)

times: setup ## write times.yaml from the runs that git tracks
	$(BIN)/bi-harness pipeline $(addprefix --measure ,$(KEPT)) > times.yaml.new
	mv times.yaml.new times.yaml

releases: setup ## write releases.yaml and docs/releases.md from the runs that git tracks
	$(BIN)/bi-harness releases $(KEPT) --out releases.yaml --page docs/releases.md

clean: ## remove .venv and caches; reports stay
	rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find bi_harness suites tests -name __pycache__ -type d -prune -exec rm -rf {} +
