#!/bin/sh
# What a GPU shows, in under ten minutes: tests, layers, networks; one report. Needs PyTorch, Triton and pytest.
cd "$(dirname "$0")/.." || exit 2
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
