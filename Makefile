# Each target creates the virtual environment if it is not there, with what the target needs.
SUPPORTED := python3.13 python3.12 python3.11
# The newest supported Python that starts and can create virtual environments. Another one: make PYTHON=path.
PYTHON ?= $(firstword $(foreach name,$(SUPPORTED),$(shell $(name) -c 'import ensurepip, venv' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MAMBA := mamba-ssm==2.3.2.post1
# Test processes: more than cores, because many tests wait for Ray or for a process that they killed.
JOBS ?= 3
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder
TYPESCRIPT := 5.9
REPLAYS ?=
DEMO_OUT ?= runs/demo
SWEEP_OUT ?= runs/sweep-demo

.PHONY: help demo sweep-demo test test-slow cluster-test faults lint format viewer-types gpu wheel clean

help:
	@echo "make demo        replays -> corpus -> world model -> report, in minutes; REPLAYS=path uses your own replays"
	@echo "make sweep-demo  synthetic replays -> corpus -> a small sweep -> which context length is enough, a few minutes"
	@echo "make test        format check, linter, type check and tests; JOBS=3 sets the number of test processes"
	@echo "make test-slow   the same, with the slow tests"
	@echo "make cluster-test  as root: evenings and failures on a cluster of network namespaces, minutes each"
	@echo "make faults      kills training runs, and encodes of REPLAYS=path, at random moments and compares the results"
	@echo "make format      formats the code and fixes what the linter can fix"
	@echo "make viewer-types  checks the types of the viewer's JavaScript; needs Node.js, fetches TypeScript with npx"
	@echo "make gpu         adds the GPU kernels of mamba-ssm"
	@echo "make wheel       builds a wheel in dist/"
	@echo "make clean       removes the virtual environment and build files"
	@echo "PYTHON=path      sets the Python of a new virtual environment (3.11, 3.12 or 3.13; now: $(or $(PYTHON),none found))"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Found no Python 3.11, 3.12 or 3.13 with the venv module." \
		"Install one (Debian, Ubuntu: apt install python3-venv) or set PYTHON=path." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first: the packages that depend on it then keep the build that is installed.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e .
	@touch $@

# mamba-ssm is a source package whose build needs a CUDA compiler. Mamba-2 needs only its Triton kernels.
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

# Each command resumes, and does nothing where it has ended.
sweep-demo: $(VENV)/.core
	test -d $(SWEEP_OUT)/corpus || $(BIN)/wm synth --out $(SWEEP_OUT)/replays --num-games 60
	$(BIN)/wm encode $(SWEEP_OUT)/replays --out $(SWEEP_OUT)/corpus
	$(BIN)/wm sweep demo --base.train-corpus $(SWEEP_OUT)/corpus --out $(SWEEP_OUT)/sweep

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

viewer-types:
	npx --yes --package typescript@$(TYPESCRIPT) tsc --project wm/viewer/static

test: lint
	$(PYTEST)

test-slow: lint
	$(PYTEST) -m 'slow or not slow'

# In one process: all share a cluster.
cluster-test: $(VENV)/.dev
	$(BIN)/pytest -n 0 -m 'slow or not slow' tests/cluster

faults: $(VENV)/.dev
	$(if $(REPLAYS),$(BIN)/python tests/support/kills.py --sources "$(REPLAYS)")
	$(BIN)/python tests/support/train_kills.py

# setuptools would pack what an earlier build left in build/.
wheel: $(BIN)/python
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build

clean:
	rm -rf $(VENV) build dist *.egg-info
