"""Where a measurement was made."""

import os
import platform
import subprocess
from pathlib import Path

import torch

import mmnorm
from mmnorm.ops import get_backend

ROOT = Path(__file__).resolve().parent.parent


def environment(device: torch.device) -> dict[str, object]:
    """Facts that a time depends on, for the saved files."""
    facts = {
        'device': torch.cuda.get_device_name() if device.type == 'cuda' else cpu_name(),
        'threads': torch.get_num_threads(),
        'load': load(),
        'torch': torch.__version__,
        'mmnorm': mmnorm.__version__,
        'commit': commit(),
        'backend': get_backend(),
        'python': platform.python_version(),
    }
    if device.type == 'cuda':
        facts |= {'cuda': torch.version.cuda, 'cudnn': torch.backends.cudnn.version()}
    return facts


def load() -> float | None:
    """Processes that wanted to run in the last minute, those of other jobs included."""
    return round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None


def cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of this checkout, ``-dirty`` where files differ from it."""
    command = ['git', 'describe', '--always', '--dirty']
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def describe(facts: dict[str, object]) -> str:
    """The facts in a line."""
    return ', '.join(f'{name} {value}' for name, value in facts.items() if value is not None)
