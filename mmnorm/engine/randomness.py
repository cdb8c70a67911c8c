"""The random number generators of a process: seeding them all from a few integers, and leaving them as they were."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_everything(*key: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices, with one stream for each key.

    Args:
        key: Non-negative integers, always as many for one purpose, e.g. seed, rank, iteration. Keys that differ in any
            of them give unrelated streams, which ``seed + rank`` does not.
    """
    import numpy as np

    words = np.random.SeedSequence(key).generate_state(8)
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:6])
    torch.manual_seed(int(words[6]) << 31 | int(words[7]) >> 1)


@contextmanager
def preserve_randomness() -> Iterator[None]:
    """Whatever random numbers are drawn inside, the generators go on as if none had been."""
    numpy = sys.modules.get('numpy')
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
