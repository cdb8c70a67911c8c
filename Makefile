# make demo: watch DeepLab with EN learn.  make test: all tests.  Both build .venv first, once.

PYTHON ?= python3.11
# Tests that run at a time, each with one thread.
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint env constraints

demo: env
	$(BIN)/python tools/demo.py

test: env lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

env: $(READY)

# The operators of mmcv are built from source (minutes, once): without --no-build-isolation it would silently have none.
# torch===: a CPU-only torch+cpu, where one is offered, has no torchvision to go with it.
# mmcv and others bring opencv-python, which needs libGL; the headless build has the same cv2 without it.
$(READY): requirements/build.txt requirements/dev.txt requirements/constraints.txt setup.py $(wildcard mmnorm/csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements/build.txt
	$(BIN)/python -m pip install --quiet "torch===2.13.0" torchvision==0.28.0 -c requirements/constraints.txt
	@echo "building mmcv's operators: this takes some minutes, once"
	$(BIN)/python -m pip install --quiet --no-build-isolation onedl-mmcv==2.3.6 -c requirements/constraints.txt
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless==4.12.0.88
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/python -c "import torch, mmnorm._C"
	$(BIN)/python -m pip check
	@touch $@

constraints: env
	{ echo "# Pins of what requirements/dev.txt brings with it; written by: make constraints"; \
	  $(BIN)/python -m pip freeze --exclude-editable | grep -viE \
	  "^(nvidia|cuda|triton|torch|onedl|matplotlib|scikit-learn|pycocotools|opencv-python-headless|hypothesis|pytest|ruff|onnx=|onnxruntime|onnxscript|ninja|wheel|setuptools)"; \
	} > requirements/constraints.txt.new
	mv requirements/constraints.txt.new requirements/constraints.txt
