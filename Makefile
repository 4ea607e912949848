# The project's own commands; CI runs the same ones. `make` alone lists them.
VENV ?= .venv
# The interpreter to make the environment with; left empty, scripts/find_python.sh finds one.
PYTHON ?=
MODEL ?= demo/model
DIR ?= bench-models/mini-mixtral
PORT ?= 50051
HTTP_PORT ?= 8000
METRICS_PORT ?= 9464
POLICY ?= qllm
# Options of the demo: --help lists them; what stands after -- goes to the scheduler.
ARGS ?=
TRANSFORMERS ?= 5.17.0
MINUTES ?= 9
PROOF_PYTHON ?= python3
PROOF_OPTIONS ?=

# Tests start hundreds of processes: each would compile the project anew where the environment has nothing kept.
export PYTHONDONTWRITEBYTECODE :=

# Traced for coverage, which makes them four times as slow: long simulations of the core are in ../traffic.
CORE_TESTS := tests/unit/scheduler_svc/core
TESTS_WITH_A_MODEL := tests/unit/gpu_worker tests/unit/test_core_with_worker.py \
	tests/integration/service/test_service.py tests/integration/service/test_cores.py \
	tests/integration/api/test_openai.py
# Two processes for each core, since tests of services wait half of the time; each takes whole files, whose tests share
# services. Long files come first.
SIDE_BY_SIDE := -n $$((2 * $$(nproc))) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.DEFAULT_GOAL := help
.PHONY: help setup protos settings parameters check demo serve bench-model clean
.PHONY: contracts faults soak test test-avx2 test-transformers test-gpu gpu-proof

help: ## lists these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## makes .venv with exactly the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@sh scripts/make_environment.sh "$(VENV)" "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,http,jobs,postgres,worker,dev]'
	@touch $@

protos: $(STAMP) ## generates the stubs in protos/qllm/v1, and the HTTP API's texts of fields, anew
	$(BIN)/python -m scripts.protos generate

settings: $(STAMP) ## generates docs/settings.md and docker-compose.yml's lists of settings anew
	$(BIN)/python -m scripts.settings generate

parameters: $(STAMP) ## generates docs/guides/parameters.md, what becomes of each field of OpenAI and vLLM, anew
	$(BIN)/python -m scripts.parameters generate

check: $(STAMP) ## format, lint, types, import contracts, protos, settings, parameters: what CI checks
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests/gpu # nothing but this notices here when what they test is renamed
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.protos check
	$(BIN)/python -m scripts.settings check
	$(BIN)/python -m scripts.parameters check

test: $(STAMP) ## all tests that need no GPU, and the core's coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) $(CORE_TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/pytest -m 'not gpu' $(SIDE_BY_SIDE) --durations 8 --ignore $(CORE_TESTS)

test-avx2: $(STAMP) ## the tests that run a model, as on a CPU without AVX-512 and bfloat16 instructions (AVX2 only)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/pytest -m 'not gpu' $(TESTS_WITH_A_MODEL)

test-transformers: $(STAMP) ## the worker's tests with another transformers (oldest: TRANSFORMERS=5.17.0)
	rm -rf build/transformers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--target build/transformers transformers==$(TRANSFORMERS)
	PYTHONPATH=build/transformers $(BIN)/pytest tests/unit/gpu_worker

test-gpu: $(STAMP) ## the tests that need a CUDA device (a torch that has it must be installed)
	$(BIN)/pytest -m gpu -rs

faults: $(STAMP) ## faults on real processes, over an hour: the matrix, kills of workers and schedulers, an overload
	$(BIN)/python -m tests.faults matrix --json build/faults-matrix.json
	$(BIN)/python -m tests.faults kills --minutes 20 --every 6 --standby --json build/faults-kills.json
	$(BIN)/python -m tests.faults jobs --json build/faults-jobs.json
	$(BIN)/python -m tests.faults jobs --postgresql --json build/faults-jobs-postgresql.json
	$(BIN)/python -m tests.faults overload --factor 5 --minutes 5 --json build/faults-overload.json

soak: $(STAMP) ## half an hour with random cancels and slow readers: memory, descriptors, threads and blocks stay flat
	$(BIN)/python -m tests.faults soak --minutes 30 --json build/soak.json

contracts: $(STAMP) ## clients that others wrote against a real service (needs a network at first, and Node with npm)
	$(BIN)/python -m tests.contracts
	$(BIN)/python -m tests.contracts.python

gpu-proof: ## proves the GPU path in MINUTES (9), most valuable facts first; results in build/gpu-proof; needs no set-up
	$(PROOF_PYTHON) -m scripts.gpu_proof --minutes $(MINUTES) --out build/gpu-proof $(PROOF_OPTIONS)

demo: $(STAMP) ## the main job on the demo model: what LS requests gain, what BE work pays; ARGS goes to it
	$(BIN)/python -m demo $(ARGS)

serve: $(STAMP) ## serves MODEL (default: the demo model) on 127.0.0.1: PORT, HTTP_PORT, METRICS_PORT, until Ctrl-C
	$(BIN)/qllm-scheduler --model $(MODEL) --spawn-worker --policy $(POLICY) \
		--grpc-port $(PORT) --http-port $(HTTP_PORT) --metrics-port $(METRICS_PORT)

bench-model: $(STAMP) ## writes the random benchmark model "mini-mixtral" to DIR
	$(BIN)/python -m demo.training.bench_model $(DIR)

clean: ## removes what was built here, the environment included
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
