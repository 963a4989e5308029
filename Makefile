# The two commands of a new checkout are `make run` and `make test`; `make help` lists the others.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# What `make run` and `make test` install, release by release: a checkout that passed goes on passing.
LOCK   := .ci/constraints.txt
PIP    := $(BIN)/python -m pip install --quiet
# What is never imported needs no bytecode; the rest gets it when it is, and by all cores.
LAZY   := --no-compile
PINNED := --constraint $(LOCK) --build-constraint $(LOCK)
BENCH  := .venv-bench/bin
SPHINX := $(BIN)/python -m sphinx -n -W --keep-going -q

# Stamps: an environment is set up again only when what it is made from has changed.
READY_RUN := $(VENV)/.ready-run
READY_DEV := $(VENV)/.ready-dev

# Two processes more than cores: tests wait longer than they compute. A file stays in one: pages are programs.
JOBS   := $(shell expr 2 + `getconf _NPROCESSORS_ONLN`)
# A process that crashes ends the run: the others would wait for its tests for ever.
PYTEST := python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Ways of travelling that no test may notice, and the tests that are run in each. How a worker was started changes
# nothing about them, so a few tests do it in one way.
MODES        := --transport=segments --transport=socket --one-by-one
TRAVEL       := tests
TRAVEL_QUICK := tests/test_map.py tests/test_submit.py -k "not spawn" -n 0

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1
export PIP_ROOT_USER_ACTION = ignore
# Where no bytecode is kept, each of the thousands of processes that tests start compiles all of parmap anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test beside check lint types suite modes modes-quick docs format coverage soak \
	test-cluster test-pythons test-newest test-lowest test-wheel dist lock bench bench-page bench-quick clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

run: $(READY_RUN) ## run the example, with a progress bar
	$(BIN)/python examples/census.py

test: $(READY_DEV) ## all checks and tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs 2 suite beside

# While tests wait, there is time for these.
beside: $(READY_DEV)
	@$(MAKE) --no-print-directory --output-sync types docs modes-quick

check: lint types ## what needs no test to run

lint: $(READY_DEV) ## format, rules and spelling; the workflow of whoever hosts the project
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/zizmor --quiet --offline .github/workflows

types: $(READY_DEV) ## mypy and pyright, both strict; what users write, in the other type checkers; what is public
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/basedpyright --pythonpath $(BIN)/python tests/typing
	$(BIN)/ty check --quiet --python $(VENV) --error unused-ignore-comment tests/typing/good.py
	$(BIN)/pyrefly check --summary=none --python-interpreter-path $(BIN)/python --preset default tests/typing/good.py
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes parmap --ignoreexternal

suite: $(READY_DEV) ## the tests; choose some with ARGS="-k name"
	$(BIN)/$(PYTEST) $(ARGS)

modes: $(READY_DEV) ## the tests with every payload in shared memory, with none there, and with one item in a chunk
	for mode in $(MODES); do $(BIN)/$(PYTEST) --dist worksteal $(TRAVEL) $$mode $(ARGS) || exit 1; done

modes-quick: $(READY_DEV) ## a few of them
	@$(MAKE) --no-print-directory modes TRAVEL='$(TRAVEL_QUICK)'

docs: $(READY_DEV) ## the documentation, in docs/_build/html; a broken reference is an error
	$(SPHINX) -b html -d docs/_build/doctrees docs docs/_build/html

format: $(READY_DEV) ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(READY_DEV) ## the tests, measured, worker processes included; too little is an error
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(subst python -m ,,$(PYTEST)) -m "not soak" $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

soak: $(READY_DEV) ## the tests that take minutes
	$(BIN)/python -m pytest -m soak --timeout 3600 -o faulthandler_timeout=3000 $(ARGS)

# Those that look at the worker processes of this machine, at what is printed while a task runs, or at the one process
# that `workers=1` means at home, are left out.
ON_CLUSTER := map submit errors deaths output timeouts seeds initializer retries streams progress per_worker outcomes journal
NOT_THERE  := idle or template or fork or bounded or quiet or chatty or later or hostage or bytes_arrive or logging \
	or at_exit or of_a_module or come_and_go or async_task or argument_and_result or travels_once or nested_use \
	or closed_once or after_a_death or closing_prints or destructors or dense_and_stable or free_number or knows_the_number
test-cluster: $(READY_DEV) ## the tests on a Dask and on a Ray cluster, of several processes on this machine
	$(BIN)/python -m pytest -m "cluster or not cluster" tests/test_clusters.py tests/test_clusters_lost.py $(ARGS)
	for name in dask ray; do TESTS_ON_CLUSTER=$$name $(BIN)/python -m pytest -W ignore -k "$$name and not ($(NOT_THERE))" \
		$(ON_CLUSTER:%=tests/test_%.py) $(ARGS) || exit 1; done

test-pythons: ## the tests on every CPython that can be found or made
	$(PYTHON) .ci/test_pythons.py $(ARGS)

test-newest: ## the tests with the newest releases of all that is used, in an environment of their own
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable . --group dev
	.venv-newest/bin/$(PYTEST) $(ARGS)

test-lowest: ## the tests with the oldest releases of dependencies and extras that pyproject.toml allows
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt \
		--editable '.[dask,joblib,progress,ray]' --group test --group properties --group arrays
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" $(PYTEST) $(ARGS)  # older releases of Dask look for their command

dist: ## wheel and source distribution, checked as an index would
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --upgrade pip build twine
	rm -rf dist
	.venv-dist/bin/python -m build --outdir dist . > /dev/null
	.venv-dist/bin/twine check --strict dist/*

test-wheel: dist ## the tests against the wheel, with the source out of the way
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --upgrade pip
	.venv-wheel/bin/python -m pip install --quiet --force-reinstall dist/*.whl \
		--group test --group properties --group arrays
	rm -rf build/wheel && mkdir -p build/wheel
	git ls-files -z ':!parmap' | xargs -0 cp --parents --target-directory build/wheel
	cd build/wheel && ../../.venv-wheel/bin/$(PYTEST) tests docs README.md \
		--ignore tests/test_packaging.py $(ARGS)  # that one builds the wheel

lock: ## choose releases anew for $(LOCK): the newest that fit together, for every Python
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade uv
	.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev --no-annotate \
		--custom-compile-command 'make lock' --output-file $(LOCK) pyproject.toml

bench: ## the speed of parmap beside its peers, in twenty minutes; writes docs/speed/benchmarks.md and the plots
	$(PYTHON) benchmarks/environment.py
	$(BENCH)/python benchmarks/run.py
	$(BENCH)/python benchmarks/ablation.py
	$(BENCH)/python benchmarks/costs.py
	$(BENCH)/python benchmarks/simulate.py

bench-page: ## the page and the plots again, from the last results
	$(BENCH)/python benchmarks/run.py --again

bench-quick: ## the same with fewer peers, in two minutes; writes build/bench-quick/benchmarks.md
	$(PYTHON) benchmarks/environment.py
	$(BENCH)/python benchmarks/run.py --quick --output build/bench-quick/results.json --docs build/bench-quick

clean: ## remove what was built, environments included
	rm -rf $(VENV) .venv-* build dist docs/_build htmlcov .coverage* .cache \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "parmap needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.13" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# An older pip knows neither dependency groups nor constraints for what builds.
$(READY_RUN): pyproject.toml $(LOCK) | $(BIN)/python
	$(PIP) --constraint $(LOCK) pip
	$(PIP) $(PINNED) $(LAZY) --editable '.[progress]'
	@touch $@

$(READY_DEV): pyproject.toml $(LOCK) | $(BIN)/python
	$(PIP) --constraint $(LOCK) pip
	$(PIP) $(PINNED) $(LAZY) --editable . --group dev
	@touch $@ $(READY_RUN)
