PYTHON ?= python3

.PHONY: install test slow lint format proto sim

install:        ## this checkout with everything needed to work on it
	$(PYTHON) -m pip install -e '.[dev]'

test:           ## the default suite: a few minutes on 2 cores
	$(PYTHON) -m pytest

slow:           ## the long suites: durability, power loss, differential, etcdctl check perf
	$(PYTHON) -m pytest -m slow -s

sim:            ## one simulated run with its trace (SEED=7), or all of SEEDS=0..2000 within MINUTES=10; SEEDS=0.. is as many as that allows
	$(PYTHON) -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),0..2000) --minutes $(or $(MINUTES),10) --jobs $(or $(JOBS),2))

lint:           ## what CI checks besides the tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports --config setup.cfg

format:
	ruff check --fix .
	ruff format .

proto:          ## the only generated files of the tree
	$(PYTHON) -m grpc_tools.protoc -I. --python_out=. --pyi_out=. etcdpb/*.proto

-include benchmarks/targets.mk deploy/targets.mk
