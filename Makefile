# Two commands do everything on a machine with Python >= 3.10, g++ and cmake: make demo, make test.
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch; plain 'torch' brings gigabytes of CUDA libraries.
TORCH := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help demo test check format clean test-gpu bench-gpu

help: ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/sdk ## Anonymize a clip of a real face and say what was done
	$(BIN)/python samples/demo.py

test: $(VENV)/dev check ## Run the checks and all tests
	$(BIN)/python -m pytest

# These two need a GPU, the CUDA toolkit and a torch that knows CUDA. Without GPU_PYTHON an environment is made for them;
# with it, that interpreter is used as it is (on a Jetson: one with NVIDIA's torch), and needs pybind11 and setuptools.
GPU_VENV := .venv-gpu
ifdef GPU_PYTHON
.PHONY: gpu-operations
gpu-operations:
	DARTBLUR_CUDA=1 $(GPU_PYTHON) setup.py --quiet build_ext --inplace
else
GPU_PYTHON := $(GPU_VENV)/bin/python
.PHONY: gpu-operations
gpu-operations:
	test -x $(GPU_PYTHON) || $(PYTHON) -m venv $(GPU_VENV)
	DARTBLUR_CUDA=1 $(GPU_PYTHON) -m pip install --quiet --editable ".[dev]"
endif
ON_GPU := PYTHONPATH=sdk:export:train:cpp_ext $(GPU_PYTHON)

test-gpu: gpu-operations ## Run the tests that need a GPU; without one they fail
	DARTBLUR_REQUIRE_GPU=1 $(ON_GPU) -m pytest tests/gpu

bench-gpu: gpu-operations ## Measure the CUDA operations, the fused graph and a training step on a GPU
	$(ON_GPU) benchmarks/gpu.py

check: $(VENV)/dev ## Lint, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the environment and what was built
	rm -rf $(VENV) $(GPU_VENV) build demo *.egg-info sdk/*.egg-info cpp_ext/dartblur_ops/*.so

# The wheel of opencv-python needs the system's OpenGL and X11 libraries; the headless one is the same without windows.
define usable_opencv
@$(BIN)/python -c 'import cv2' || { echo 'opencv-python cannot be loaded here: installing opencv-python-headless instead'; \
	$(BIN)/pip uninstall --quiet --yes opencv-python && $(BIN)/pip install --quiet opencv-python-headless; }
endef

SOURCES := setup.py pyproject.toml $(shell find cpp_ext/csrc -type f)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/sdk: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable . "scikit-image>=0.22"
	$(usable_opencv)
	touch $@

$(VENV)/dev: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(usable_opencv)
	touch $@ $(VENV)/sdk
