# Each target first creates .venv, unless it is up to date (infra/bootstrap).

# Without bytecode caches each start of a service compiles all libraries: 3.5 s instead of 1.3 s.
unexport PYTHONDONTWRITEBYTECODE

ARGS ?=
chorus := .venv/bin/chorus
python := .venv/bin/python
lock   := .venv/bin/uv --quiet pip compile --universal --generate-hashes --no-header --no-emit-index-url \
          --no-annotate --python-version 3.11 pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo up bench test chaos simulate check format lock events topology documents

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

bootstrap:
	@infra/bootstrap

demo: bootstrap  ## start everything and play the story of one customer (ARGS: --exit, --native, --docker)
	@$(chorus) demo $(ARGS)

up: bootstrap  ## start everything and run until Ctrl-C (ARGS: --native, --docker)
	@$(chorus) up $(ARGS)

bench: bootstrap  ## measure Chorus against other ways to build it (ARGS=--quick takes about 3 minutes)
	@$(chorus) bench $(ARGS)

test: bootstrap  ## run all tests, with servers in containers or, without Docker, as private processes
	@$(python) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: bootstrap  ## run a load while processes and servers are killed; ARGS="--seed 7 --minutes 3"
	@$(python) -m tests.chaos $(ARGS)

simulate: bootstrap  ## run random schedules in a deterministic simulation; ARGS="--seed 7 --schedules 300"
	@$(python) -m tests.simulation $(ARGS)

check: bootstrap  ## all checks without servers: style, types, imports, unit, contract and architecture tests
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(python) -m events.contracts check
	@$(python) -m pytest -q --numprocesses 2 tests/unit tests/contracts tests/architecture

format: bootstrap  ## format the code
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

lock: bootstrap  ## pin all packages with hashes (ARGS=--upgrade for the newest allowed versions)
	@$(lock) --extra build $(ARGS) --output-file requirements.lock
	@$(lock) --extra build --extra demo --extra dev $(ARGS) --constraint requirements.lock --output-file requirements-dev.lock

documents: bootstrap  ## make each service's OpenAPI and AsyncAPI documents from the code
	@$(python) -m tools.documents write

topology: bootstrap  ## write docs/topology.md from the declared exchanges and queues
	@$(chorus) topology --write docs/topology.md

events: bootstrap  ## record new events and optional fields (fails if a published event has changed)
	@$(python) -m events.contracts write
