# attestd: `make run` shows the main job, `make test` passes the tests. Both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help run demo test chaos bench fuzz mutants soak check lint types layers lock clean

help:            ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

run: $(VENV)/.ready          ## Set up, show the main job on a software TPM, stay up until Ctrl-C
	@$(BIN)/python -m attestd_demo --stay

demo: $(VENV)/.ready         ## The same story; ends, and fails unless every step came out as it should
	@$(BIN)/python -m attestd_demo

test: $(VENV)/.ready-tests check   ## Lint, types, layers and every test; those with a registry on PostgreSQL, too
	@$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadfile
	@ATTESTD_TEST_DATABASE=postgresql $(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadfile -m database

CHAOS_KILLS ?= 320

# Some eight minutes on a quiet machine. A run prints its seed; CHAOS_SEED=… repeats it.
chaos: $(VENV)/.ready-tests    ## Kill service, database and agent hundreds of times, take their disks away: all is whole?
	@CHAOS_KILLS=$(CHAOS_KILLS) $(BIN)/pytest tests/chaos -s --timeout 3600

FUZZ_SECONDS ?= 60

# FUZZ_SECONDS for each target; TARGETS="token bundle" takes those alone. Corpora stay in build/fuzz.
fuzz: $(VENV)/.ready-tests     ## Fuzz every parser of untrusted octets, then the API and the protocol's states
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(TARGETS)

# Some ten minutes on a quiet machine; BENCHMARKS="edge enrollment" takes those alone.
bench: $(VENV)/.ready-tests    ## Measure everything beside its floor: a table, and build/bench.json
	@$(BIN)/python -m tests.bench $(BENCHMARKS)

# Takes hours of one core; MODULES=attestd/tpm does a part.
mutants: $(VENV)/.ready-tests  ## Take every check out of the code, one by one: does a test notice?
	@$(BIN)/python tests/mutants.py $(MODULES)

# Every attack of tests/load, long and large, then all of them at once; about half an hour, and most of two cores.
soak: $(VENV)/.ready-tests     ## The service under attack, long
	@ATTESTD_SOAK=1 $(BIN)/pytest tests/load --timeout 1200

check: $(VENV)/.ready lint types layers

lint: $(VENV)/.ready         ## ruff: lint and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.ready        ## mypy --strict
	@$(BIN)/mypy

layers: $(VENV)/.ready       ## import-linter: who may import whom
	@$(BIN)/lint-imports --no-cache

# Pins every dependency with its hashes, for every Python that the project supports (needs uv).
lock:            ## Renew requirements/*.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements/build.txt requirements/build.in
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q --all-extras -c requirements/build.txt -o requirements/lock.txt pyproject.toml

clean:           ## Remove what was made here; the instance under .attestd stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.ready: requirements/build.txt requirements/lock.txt pyproject.toml deploy/install-dependencies.sh
	@deploy/install-dependencies.sh runtime
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked Python packages into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-build-isolation -r requirements/lock.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.ready-tests: $(VENV)/.ready
	@deploy/install-dependencies.sh tests
	@touch $@
