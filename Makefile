# The words of this project. `make up` and `make test` are the whole set-up on a fresh machine.
.PHONY: up setup check fix test test-slow bench-gateway bench-engine bench-swap bench-node bench-plan bench-sim test-sim test-clients fuzz openapi lock clean bench-memory
PYTHON ?= python3
ARGS ?=

up:            ## the newcomer's first command: environment, gateway, neuron and a real small model
	@sh scripts/setup run
	@exec .venv/bin/cortex up $(ARGS)

setup:         ## the environment for development
	@sh scripts/setup dev

check: setup   ## lint, format, types, import rules
	@sh scripts/check

fix: setup     ## what the linter and formatter can mend by themselves
	@.venv/bin/ruff check --fix src tests bench; .venv/bin/ruff format src tests bench

test: setup    ## the default suite; a real model answers in it
	@.venv/bin/python -m pytest $(ARGS)

test-slow: setup  ## the slower suites: long property runs, soak
	@.venv/bin/python -m pytest -m slow --timeout 900 $(ARGS)

test-clients: setup  ## real clients of others, pinned, against a real gateway and neuron; needs npm
	@sh scripts/test-clients $(ARGS)

bench-gateway: setup  ## what a request and a streamed event cost, beside nginx and vllm-router
	@sh scripts/bench-gateway $(ARGS)

bench-engine: setup  ## the engine room's bars, beside the engine in-process and llama.cpp's own server
	@sh scripts/bench-engine $(ARGS)

bench-node: setup  ## idle cost, /health under load, cold load beside llama.cpp alone, loads and unloads without end
	@.venv/bin/python bench/node.py $(ARGS)

bench-swap: setup  ## what a cold model and a swap cost, in multiples of the bare engine's start
	@.venv/bin/python bench/swap.py $(ARGS)

bench-plan: setup  ## time per decision of the planner at 10, 100 and 1,000 nodes
	@.venv/bin/python bench/plan.py $(ARGS)

bench-memory: setup  ## predictions of memory beside what was seen, cold and after one load
	@.venv/bin/python bench/memory.py $(ARGS)

bench-sim: setup  ## the simulation's table: small talks medium forum large, --seed, --hours
	@.venv/bin/python bench/sim.py $(ARGS)

test-sim: setup  ## fleets that live through a made-up day; the strategies beside the offline optimum
	@.venv/bin/python -m pytest -m slow --timeout 900 tests/sim $(ARGS)

fuzz: setup    ## coverage-guided fuzzing of what must hold for any bytes; ARGS="--seconds 600 sse"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/fuzz.lock
	@.venv/bin/python -m tests.fuzz.run $(ARGS)

openapi: setup  ## renew docs/reference/openapi.json
	@.venv/bin/python -m helexa.gateway.edge.openapi > docs/reference/openapi.json

lock: setup    ## renew the exact versions
	@sh scripts/lock

clean:
	rm -rf .venv .clients tests/clients/node/node_modules .pytest_cache .ruff_cache .hypothesis bench/.build
