#!/usr/bin/env bash
# Evaluate on several GPUs of this machine, or on CPUs with gloo:
# tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
set -eu
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3
exec python "$(dirname "$0")/test.py" "$config" "$checkpoint" --gpus "$gpus" "$@"
