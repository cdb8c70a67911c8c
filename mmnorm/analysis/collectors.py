"""What is kept of one layer while batches run. Plain data, so that processes can send theirs to the first."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from ..layers.base import LearnedNorm
from .histogram import StreamingHistogram

if TYPE_CHECKING:
    from typing_extensions import Self


class Collector(Protocol):
    """What is kept of one layer."""

    def see(self, layer: LearnedNorm, x: Tensor) -> None:
        """Take in the input of one call."""

    def end_batch(self, samples: int) -> None:
        """Take note that a batch of ``samples`` is complete; a layer may have been called any number of times."""

    def merge(self, other: 'Self') -> None:
        """Take over what another process has kept of the same layer."""

    def result(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """What goes into the record; ``order`` are the samples to keep, in their order."""


class WeightsCollector:
    """Weights that no input changes, as SN's."""

    def __init__(self, layer: LearnedNorm) -> None:
        self.weights = layer.importance_weights().float().cpu().numpy()

    def see(self, layer: LearnedNorm, x: Tensor) -> None: ...

    def end_batch(self, samples: int) -> None: ...

    def merge(self, other: 'WeightsCollector') -> None: ...

    def result(self, order: np.ndarray) -> dict[str, np.ndarray]:
        return {'weights': self.weights}


class RatiosCollector:
    """Ratios of each sample, as EN's: of every image, where the layer sees images, and in the average in any case.

    A head that works on regions sees other things than images, any number of them; it has averages alone.
    """

    def __init__(self, layer: LearnedNorm) -> None:
        self.count = 0
        self.sum = np.zeros(len(layer.normalizers))
        self.squares = np.zeros(len(layer.normalizers))
        self.rows: list[np.ndarray] | None = []
        self._calls: list[np.ndarray] = []

    def see(self, layer: LearnedNorm, x: Tensor) -> None:
        ratios = layer.importance_ratios(x).double().cpu().numpy()
        if ratios.size:
            self.count += len(ratios)
            self.sum += ratios.sum(0)
            self.squares += np.square(ratios).sum(0)
        self._calls.append(ratios)

    def end_batch(self, samples: int) -> None:
        calls, self._calls = self._calls, []
        if self.rows is None:
            return
        if calls and all(len(ratios) == samples for ratios in calls):
            # Called several times, for the levels of a pyramid or the crops of a slide: their average.
            self.rows.append(np.mean(calls, axis=0).astype(np.float32))
        else:
            self.rows = None

    def merge(self, other: 'RatiosCollector') -> None:
        self.count += other.count
        self.sum += other.sum
        self.squares += other.squares
        self.rows = None if self.rows is None or other.rows is None else self.rows + other.rows

    def result(self, order: np.ndarray) -> dict[str, np.ndarray]:
        if self.rows is not None:
            ratios = np.concatenate(self.rows)[order]
            mean, std = ratios.mean(0, dtype=np.float64), ratios.std(0, dtype=np.float64)
            return {'ratios': ratios, 'mean': mean.astype(np.float32), 'std': std.astype(np.float32)}
        mean = self.sum / max(self.count, 1)
        std = np.sqrt(np.maximum(self.squares / max(self.count, 1) - np.square(mean), 0))
        if not self.count:
            mean = std = np.full_like(mean, np.nan)
        return {'mean': mean.astype(np.float32), 'std': std.astype(np.float32)}


class _Channels:
    """Values (N, C): a histogram of all, mean and standard deviation over the samples of each channel."""

    def __init__(self, channels: int) -> None:
        self.histogram = StreamingHistogram()
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, values: np.ndarray) -> None:
        if len(values):
            self.histogram.add(values)
            mean = values.mean(0)
            self._merge(len(values), mean, np.square(values - mean).sum(0))

    def merge(self, other: '_Channels') -> None:
        if other.count:
            self.histogram.merge(other.histogram)
            self._merge(other.count, other.mean, other.squares)

    def _merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        total = self.count + count
        difference = mean - self.mean
        self.squares += squares + np.square(difference) * (self.count * count / total)
        self.mean += difference * (count / total)
        self.count = total

    def result(self, name: str) -> dict[str, np.ndarray]:
        return {
            f'{name}_counts': self.histogram.counts,
            f'{name}_edges': self.histogram.edges,
            f'{name}_mean': self.mean.astype(np.float32),
            f'{name}_std': np.sqrt(self.squares / max(self.count, 1)).astype(np.float32),
        }


class AffineCollector:
    """Omega and beta that a layer predicts, as ILM does, and its own B_omega and B_beta."""

    def __init__(self, layer: LearnedNorm) -> None:
        self.channels = {name: _Channels(layer.num_features) for name in ('omega', 'beta')}
        # As in the layer where they are not learned.
        own = {'base_omega': layer.weight, 'base_beta': layer.bias}
        constants = {'base_omega': 1.0, 'base_beta': 0.0}
        self.own = {
            name: np.full(layer.num_features, constants[name], np.float32)
            if value is None
            else value.detach().float().cpu().numpy()
            for name, value in own.items()
        }

    def see(self, layer: LearnedNorm, x: Tensor) -> None:
        for channels, values in zip(self.channels.values(), layer.predicted_affine(x), strict=True):
            channels.add(values.double().cpu().numpy())

    def end_batch(self, samples: int) -> None: ...

    def merge(self, other: 'AffineCollector') -> None:
        for name, channels in self.channels.items():
            channels.merge(other.channels[name])

    def result(self, order: np.ndarray) -> dict[str, np.ndarray]:
        results = [channels.result(name) for name, channels in self.channels.items()]
        return {**results[0], **results[1], **self.own}


# By LearnedNorm.learns.
_COLLECTORS: dict[str | None, Callable[[LearnedNorm], Collector]] = {
    'weights': WeightsCollector,
    'ratios': RatiosCollector,
    'affine': AffineCollector,
}


def collector_for(layer: LearnedNorm) -> Collector:
    """An empty collector for ``layer``."""
    return _COLLECTORS[layer.learns](layer)
