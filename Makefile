# One virtual environment, made by whichever target comes first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Test processes. More than cores, because many tests wait for Ray or for a process that they killed.
JOBS ?= 4
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder
MAMBA := mamba-ssm==2.3.2.post1
REPLAYS ?=
DEMO_OUT ?= runs/demo

.PHONY: help demo test test-slow faults lint format gpu clean

help:
	@echo "make demo                 replays -> corpus -> world model -> report, in minutes (REPLAYS=path for your own)"
	@echo "make test                 format, lint, types and tests"
	@echo "make test-slow            the slow tests too"
	@echo "make faults               kills encodes (REPLAYS=path) and training runs at random moments, compares what comes out"
	@echo "make gpu                  adds the CUDA kernels of mamba-ssm"

# torch before the rest: the packages that depend on it then take the build that is there.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e .
	@touch $@

# mamba-ssm ships sources whose build wants a CUDA compiler; Mamba-2 needs only its Triton kernels.
$(VENV)/.gpu: $(VENV)/.core
	$(PIP) -c constraints.txt -e '.[gpu]' setuptools wheel packaging ninja
	MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE $(PIP) --no-build-isolation --no-deps $(MAMBA)
	@touch $@

$(VENV)/.dev: $(VENV)/.gpu
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

gpu: $(VENV)/.gpu

demo: $(VENV)/.core
	$(BIN)/wm demo --out $(DEMO_OUT) $(if $(REPLAYS),--replays "$(REPLAYS)")

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint
	$(PYTEST)

test-slow: lint
	$(PYTEST) -m 'slow or not slow'

faults: $(VENV)/.dev
	$(if $(REPLAYS),$(BIN)/python tests/support/kills.py --sources "$(REPLAYS)")
	$(BIN)/python tests/support/train_kills.py

clean:
	rm -rf $(VENV) build *.egg-info
