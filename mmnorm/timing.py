"""Times of calls side by side."""

import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

K = TypeVar('K', bound=Hashable)


def synchronize(device: torch.device) -> None:
    """Wait for what runs on a GPU; a CPU has done it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def seconds_per_call(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Mean time of ``count`` calls."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        call()
    synchronize(device)
    return (time.perf_counter() - start) / count


def interleave(
    calls: Mapping[K, Callable[[], object]], repeats: int, device: torch.device, sample_seconds: float = 0.01
) -> dict[K, list[float]]:
    """Time every call once a round, so that what else the machine does hits all of them alike.

    The order changes from round to round, so that none always finds the caches as the same other one left them.

    Args:
        calls: What to time.
        repeats: Number of rounds.
        device: Where the calls compute.
        sample_seconds: A sample is the mean of so many calls that it takes about this long; 0 is one call.

    Returns:
        Seconds a call, one sample a round, for each of ``calls``.
    """
    counts = dict.fromkeys(calls, 1)
    for key, call in calls.items():
        call()
        if sample_seconds:
            # The second call may still allocate; the third tells how long it takes.
            call()
            counts[key] = max(1, math.ceil(sample_seconds / max(seconds_per_call(call, 1, device), 1e-7)))
    samples: dict[K, list[float]] = {key: [] for key in calls}
    order = random.Random(0)
    for _ in range(repeats):
        for key in order.sample(list(calls), len(calls)):
            samples[key].append(seconds_per_call(calls[key], counts[key], device))
    return samples


def median_seconds(calls: Mapping[K, Callable[[], object]], repeats: int, device: torch.device) -> dict[K, float]:
    """Median time of each call; of long ones, a sample of which is one call. Each is called once before.

    Args:
        calls: What to time.
        repeats: Number of rounds.
        device: Where the calls compute.
    """
    samples = interleave(calls, repeats, device, sample_seconds=0)
    return {key: statistics.median(values) for key, values in samples.items()}


def geometric_mean(values: list[float]) -> float:
    """NaN where a value is not positive, as a backward time that is a difference of noisy ones may be."""
    if not values or not all(value > 0 for value in values):
        return math.nan
    return math.exp(sum(map(math.log, values)) / len(values))
