# make demo: watch DeepLab with EN learn.  make test: all tests.  Both build .venv first, once.
# make test-upstream: all tests with the OpenMMLab of open-mmlab, on the PyTorch that its mmcv stands on.
# make test-torch: the tests of the layers with PyTorch alone, on several versions; TORCH=2.1.2 for one.
# make docs: the documentation as a site, in site/.

PYTHON ?= python3.11
# Tests that run at a time, each with one thread.
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready

# Versions of PyTorch for test-torch; "newest" is what the package index has.
TORCH ?= 2.1.2 2.4.1 2.6.0 newest
TORCHES := $(addprefix test-torch-,$(TORCH))

.PHONY: demo test lint env constraints docs test-upstream env-upstream test-torch $(TORCHES)

demo: env
	$(BIN)/python tools/demo.py

test: env lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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

# mmnorm._C lies among the sources and belongs to one PyTorch. So an environment with another one than .venv has the
# sources once more, in $(1)/src; objects of an earlier build stay.
define copy_sources
	mkdir -p $(1)/src
	find $(1)/src -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	git ls-files -z --cached --others --exclude-standard | \
	  tar -c --null --ignore-failed-read --files-from - 2> /dev/null | tar -x -C $(1)/src
	cd $(1)/src && MAX_JOBS=$(WORKERS) ../bin/python setup.py --quiet build_ext --inplace
	cd $(1)/src && ../bin/python -c "import torch, mmnorm._C"
endef

# Strict: a link, an anchor or a reference that leads nowhere is an error. Docstrings are read, not imported.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.ready: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --requirement requirements/docs.txt
	@touch $@

test-upstream: env-upstream
	$(call copy_sources,.venv-upstream)
	cd .venv-upstream/src && OMP_NUM_THREADS=1 ../bin/python -m pytest -n $(WORKERS) --dist worksteal

env-upstream: .venv-upstream/.ready

# The last releases of open-mmlab. mmcv has operators of its own to build, for PyTorch 2.1.
.venv-upstream/.ready: requirements/upstream.txt requirements/upstream-constraints.txt
	$(PYTHON) -m venv .venv-upstream
	.venv-upstream/bin/python -m pip install --quiet setuptools==69.5.1 wheel==0.48.0 ninja==1.13.2
	.venv-upstream/bin/python -m pip install --quiet "torch===2.1.2" torchvision==0.16.2 \
	  -c requirements/upstream-constraints.txt
	@echo "building mmcv's operators: this takes some minutes, once"
	.venv-upstream/bin/python -m pip install --quiet --no-build-isolation mmcv==2.1.0 \
	  -c requirements/upstream-constraints.txt
	.venv-upstream/bin/python -m pip install --quiet --requirement requirements/upstream.txt
	.venv-upstream/bin/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless==4.11.0.86
	.venv-upstream/bin/python -m pip check
	# As an editable installation, whose build would compile everything a second time.
	echo "$(CURDIR)/.venv-upstream/src" > "$$(.venv-upstream/bin/python -c 'import site; print(site.getsitepackages()[0])')/mmnorm.pth"
	@touch $@

test-torch: $(TORCHES)

$(TORCHES): test-torch-%: .venv-torch-%/.ready
	$(call copy_sources,.venv-torch-$*)
	cd .venv-torch-$*/src && ../bin/python -c "import torch; print('PyTorch', torch.__version__)"
	cd .venv-torch-$*/src && OMP_NUM_THREADS=1 ../bin/python -m pytest -n $(WORKERS) --dist worksteal tests/layers tests/ops

.venv-torch-%/.ready: requirements/torch.txt
	$(PYTHON) -m venv .venv-torch-$*
	.venv-torch-$*/bin/python -m pip install --quiet $(if $(filter newest,$*),torch,"torch===$*") \
	  --requirement requirements/torch.txt
	@touch $@

# $(1): an environment, $(2): the pins of what $(3) brings with it.
define write_pins
	{ echo "# Pins of what requirements/$(3) brings with it; written by: make constraints"; \
	  $(1)/bin/python -m pip freeze --exclude-editable | grep -viE \
	  "^(nvidia|cuda|triton|torch|onedl|mm|matplotlib|scikit-learn|pycocotools|opencv-python-headless|hypothesis|pytest|ruff|mypy=|onnx=|onnxruntime|onnxscript|ninja|wheel|setuptools)"; \
	} > requirements/$(2).new
	mv requirements/$(2).new requirements/$(2)
endef

constraints: env env-upstream
	$(call write_pins,.venv,constraints.txt,dev.txt)
	$(call write_pins,.venv-upstream,upstream-constraints.txt,upstream.txt)
