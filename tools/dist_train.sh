#!/usr/bin/env bash
# Train on several GPUs of this machine, or on CPUs with gloo: tools/dist_train.sh CONFIG GPUS [options of train.py]
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
config=$1 gpus=$2
shift 2
exec python "$(dirname "$0")/train.py" "$config" --gpus "$gpus" "$@"
