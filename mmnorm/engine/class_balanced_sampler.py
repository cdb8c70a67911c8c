"""A sampler for data whose classes are of very different sizes, such as WebVision's: every class equally often."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from ..registry import register_in

if TYPE_CHECKING:
    from mmengine.dataset import BaseDataset

_CHUNK = 4096


@register_in(DATA_SAMPLERS)
class ClassBalancedSampler(Sampler):
    """Draws a class, then an image of that class, with replacement and without end: for loops by iterations.

    What the processes draw is one sequence that they share out, so it does not depend on anything but the seed.

    Args:
        dataset: Of mmengine's kind: ``get_data_info(i)`` has ``gt_label``.
        seed: Of what is drawn; None is a random one, the same in all processes.

    Raises:
        KeyError: If a sample has no ``gt_label``.
    """

    def __init__(self, dataset: 'BaseDataset', seed: int | None = None) -> None:
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        labels = np.array([dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))])
        self._by_class = labels.argsort(kind='stable')
        _, self._counts = np.unique(labels, return_counts=True)
        self._starts = self._counts.cumsum() - self._counts

    def __iter__(self) -> Iterator[int]:
        """Indices of this process."""
        return islice(self._drawn(), self.rank, None, self.world_size)

    def __len__(self) -> int:
        """Number of samples of the data set."""
        return len(self.dataset)

    def _drawn(self) -> Iterator[int]:
        random = np.random.default_rng(self.seed)
        while True:
            classes = random.integers(len(self._counts), size=_CHUNK)
            within = random.integers(self._counts[classes])
            yield from self._by_class[self._starts[classes] + within].tolist()
