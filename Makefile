# Everything from nothing: each target first makes .venv, in a moment if that is done (infra/bootstrap).

# Services start again and again here; where bytecode may not be kept, each start compiles every library: 3.5 s, not 1.3.
unexport PYTHONDONTWRITEBYTECODE

ARGS ?=
chorus := .venv/bin/chorus
python := .venv/bin/python
lock   := .venv/bin/uv --quiet pip compile --universal --generate-hashes --no-header --no-emit-index-url \
          --no-annotate --python-version 3.11 pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help bootstrap demo up bench test chaos simulate check format lock events topology documents

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

bootstrap:
	@infra/bootstrap

demo: bootstrap  ## start everything and play the story; ARGS=--exit ends after it (also --native, --docker)
	@$(chorus) demo $(ARGS)

up: bootstrap  ## start everything, without the story, until Ctrl-C
	@$(chorus) up $(ARGS)

bench: bootstrap  ## measure Chorus against other ways to build it; ARGS=--quick for a first table in 3 minutes
	@$(chorus) bench $(ARGS)

test: bootstrap  ## the whole suite, with servers in containers or, without Docker, as private processes
	@$(python) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: bootstrap  ## everything under load while everything fails; ARGS="--seed 7 --minutes 3"
	@$(python) -m tests.chaos $(ARGS)

simulate: bootstrap  ## schedule after schedule in which each step is chosen; ARGS="--seed 7 --schedules 300"
	@$(python) -m tests.simulation $(ARGS)

check: bootstrap  ## what needs no server: style, types, import contracts, unit tests, contracts, architecture
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(python) -m events.contracts check
	@$(python) -m pytest -q --numprocesses 2 tests/unit tests/contracts tests/architecture

format: bootstrap  ## write the code as `make check` wants it
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format

lock: bootstrap  ## pin the newest allowed version of every package, with hashes (ARGS=--upgrade; else only what is new)
	@$(lock) --extra build $(ARGS) --output-file requirements.lock
	@$(lock) --extra build --extra demo --extra dev $(ARGS) --constraint requirements.lock --output-file requirements-dev.lock

documents: bootstrap  ## make each service's OpenAPI and AsyncAPI documents from the code
	@$(python) -m tools.documents write

topology: bootstrap  ## draw the exchanges and queues into the docs
	@$(chorus) topology --write docs/topology.md

events: bootstrap  ## publish new events and new optional fields (refused where a published event has changed)
	@$(python) -m events.contracts write
