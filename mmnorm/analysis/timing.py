"""Times of networks side by side."""

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

K = TypeVar('K', bound=Hashable)


def median_seconds(calls: Mapping[K, Callable[[], object]], repeats: int, device: torch.device) -> dict[K, float]:
    """Median time of each call.

    All are called in each round, in an order of its own, so that whatever else the machine does hits all of them alike.

    Args:
        calls: What to time; each is called once before.
        repeats: Number of rounds.
        device: Where the calls compute.
    """
    samples: dict[K, list[float]] = {key: [] for key in calls}
    order = random.Random(0)
    for call in calls.values():
        call()
    for _ in range(repeats):
        for key in order.sample(list(calls), len(calls)):
            samples[key].append(_seconds(calls[key], device))
    return {key: statistics.median(values) for key, values in samples.items()}


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
