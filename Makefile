# make demo: what the layers are for, seen in minutes; builds what that takes of .venv first, once.
# make test: all tests; builds the rest of .venv first, once, of which the operators of mmcv take 5 to 10 minutes.
# make test-upstream: all tests with the OpenMMLab of open-mmlab, on the PyTorch that its mmcv stands on.
# make test-torch: the tests of the layers with PyTorch alone, on several versions; TORCH=2.1.2 for one,
#   PYTHON=python3.12 for another Python, in environments of its own.
# make docs: the documentation as a site, in site/.
# make release: source distribution and wheel, in dist/.

PYTHON ?= python3.11
# Tests that run at a time, each with one thread.
WORKERS ?= 2
BIN := .venv/bin
# Runs a command, shows that it is alive.
STEP := bash requirements/step.sh
# After the flags that Python was built with, of which -g makes compiling mmcv's operators take twice as long.
NO_DEBUG := CFLAGS="$$CFLAGS -g0"

# Versions of PyTorch for test-torch; "newest" is what the package index has.
TORCH ?= 2.1.2 2.4.1 2.6.0 newest
TORCHES := $(addprefix test-torch-,$(TORCH))
# Of the environments of another Python than the default, such as -py3.12, so that they stand beside the others.
SUFFIX := $(if $(filter python3.11,$(PYTHON)),,$(filter-out -py3.11,$(shell \
  $(PYTHON) -c 'import sys; print("-py{}.{}".format(*sys.version_info))')))

.PHONY: demo test lint env env-demo constraints docs release test-upstream env-upstream test-torch $(TORCHES)

demo: env-demo
	$(BIN)/python tools/demo.py

test: env lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Packages come while mmnorm's loops are compiled.
env-demo:
	@$(MAKE) --silent --no-print-directory --jobs=2 .venv/.packages .venv/.loops

env: env-demo
	@$(MAKE) --silent --no-print-directory .venv/.ready

# torch===: a CPU-only torch+cpu, where one is offered, has no torchvision to go with it.
.venv/.torch: requirements/build.txt
	@$(STEP) "Environment .venv" $(PYTHON) -m venv .venv
	@$(STEP) "Build tools" $(BIN)/python -m pip install --requirement requirements/build.txt
	@$(STEP) "PyTorch" $(BIN)/python -m pip install "torch===2.13.0" torchvision==0.28.0 -c requirements/constraints.txt
	@touch $@

# mmcv and others bring opencv-python, which needs libGL; the headless build has the same cv2 without it.
define install_headless_opencv
$(STEP) "OpenCV without a display" $(1)/bin/python -m pip install --force-reinstall --no-deps opencv-python-headless==$(2)
endef

.venv/.packages: .venv/.torch requirements/demo.txt requirements/constraints.txt
	@$(STEP) "OpenMMLab for segmentation" $(BIN)/python -m pip install --requirement requirements/demo.txt
	@$(call install_headless_opencv,.venv,4.12.0.88)
	@touch $@

.venv/.loops: .venv/.torch setup.py $(wildcard mmnorm/csrc/*)
	@$(STEP) "mmnorm's loops" $(BIN)/python -m pip install --no-build-isolation --no-deps --editable .
	@$(BIN)/python -c "import torch, mmnorm._C"
	@touch $@

# The mmcv of the demo has no operators, and so has pip's copy of what it built; the release and version are the same.
.venv/.ready: .venv/.packages .venv/.loops requirements/dev.txt
	@$(STEP) "The rest of OpenMMLab, and what tests" $(BIN)/python -m pip install --requirement requirements/dev.txt
	@$(call install_headless_opencv,.venv,4.12.0.88)
	@$(BIN)/python -c "import torch, mmcv._ext" 2> /dev/null || \
	  $(STEP) "mmcv's operators, once, for 5 to 10 minutes" env $(NO_DEBUG) $(BIN)/python -m pip install --verbose \
	  --force-reinstall --no-deps --no-build-isolation --no-cache-dir --no-binary onedl-mmcv onedl-mmcv==2.3.6
	@$(BIN)/python -c "import torch, mmcv._ext"
	@$(BIN)/python -m pip check
	@touch $@

# mmnorm._C lies among the sources and belongs to one PyTorch. So an environment with another one than .venv has the
# sources once more, in $(1)/src; objects of an earlier build stay.
define copy_sources
	mkdir -p $(1)/src
	find $(1)/src -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	git ls-files -z --cached --others --exclude-standard | \
	  tar -c --null --ignore-failed-read --files-from - 2> /dev/null | tar -x -C $(1)/src
	cd $(1)/src && bash requirements/step.sh "mmnorm's loops" ../bin/python setup.py build_ext --inplace
	cd $(1)/src && ../bin/python -c "import torch, mmnorm._C"
endef

# Strict: a link, an anchor or a reference that leads nowhere is an error. Docstrings are read, not imported.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.ready: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --requirement requirements/docs.txt
	@touch $@

# One wheel for every Python and PyTorch, which the build does not see; auditwheel names it after the systems that it
# runs on, and fails if the loops ask for more. Nothing is put into it: the OpenMP is PyTorch's.
release: .venv-release/.ready
	rm -rf .venv-release/dist dist
	.venv-release/bin/python -m build --outdir .venv-release/dist
	PATH="$(CURDIR)/.venv-release/bin:$$PATH" auditwheel repair --plat manylinux2014_$$(uname -m) --wheel-dir dist \
	  .venv-release/dist/*.whl
	cp .venv-release/dist/*.tar.gz dist
	.venv-release/bin/twine check --strict dist/*

.venv-release/.ready: requirements/release.txt
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --requirement requirements/release.txt
	@touch $@

test-upstream: env-upstream
	$(call copy_sources,.venv-upstream)
	cd .venv-upstream/src && OMP_NUM_THREADS=1 ../bin/python -m pytest -n $(WORKERS) --dist worksteal

env-upstream: .venv-upstream/.ready

# The last releases of open-mmlab. mmcv has operators of its own to build, for PyTorch 2.1.
.venv-upstream/.ready: requirements/upstream.txt requirements/upstream-constraints.txt
	@$(STEP) "Environment .venv-upstream" $(PYTHON) -m venv .venv-upstream
	@$(STEP) "Build tools" .venv-upstream/bin/python -m pip install setuptools==69.5.1 wheel==0.48.0 ninja==1.13.2
	@$(STEP) "PyTorch" .venv-upstream/bin/python -m pip install "torch===2.1.2" torchvision==0.16.2 \
	  -c requirements/upstream-constraints.txt
	@$(STEP) "mmcv and its operators, once, for 5 to 10 minutes" env $(NO_DEBUG) .venv-upstream/bin/python -m pip install \
	  --verbose --no-build-isolation mmcv==2.1.0 -c requirements/upstream-constraints.txt
	@$(STEP) "OpenMMLab, and what tests" .venv-upstream/bin/python -m pip install --requirement requirements/upstream.txt
	@$(call install_headless_opencv,.venv-upstream,4.11.0.86)
	.venv-upstream/bin/python -m pip check
	# As an editable installation, whose build would compile everything a second time.
	echo "$(CURDIR)/.venv-upstream/src" > "$$(.venv-upstream/bin/python -c 'import site; print(site.getsitepackages()[0])')/mmnorm.pth"
	@touch $@

test-torch: $(TORCHES)

$(TORCHES): test-torch-%: .venv-torch-%$(SUFFIX)/.ready
	$(call copy_sources,.venv-torch-$*$(SUFFIX))
	cd .venv-torch-$*$(SUFFIX)/src && \
	  ../bin/python -c "import sys, torch; print('Python', sys.version.split()[0], 'PyTorch', torch.__version__)"
	cd .venv-torch-$*$(SUFFIX)/src && \
	  OMP_NUM_THREADS=1 ../bin/python -m pytest -n $(WORKERS) --dist worksteal tests/layers tests/ops

$(TORCHES:test-torch-%=.venv-torch-%$(SUFFIX)/.ready): .venv-torch-%$(SUFFIX)/.ready: requirements/torch.txt
	@$(STEP) "Environment .venv-torch-$*$(SUFFIX)" $(PYTHON) -m venv .venv-torch-$*$(SUFFIX)
	@$(STEP) "PyTorch" .venv-torch-$*$(SUFFIX)/bin/python -m pip install $(if $(filter newest,$*),torch,"torch===$*") \
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
