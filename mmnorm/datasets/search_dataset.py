"""The data of an architecture search: the images that train weights, those held out, and batches of either by turns."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, Sampler

from ..errors import UsageError
from ..registry import register_in


@register_in(DATASETS)
class SearchDataset(Dataset):
    """Two views of the same images: most train the shared weights, the others are held out for the controller.

    Samples of the latter have ``held_out=True`` in their metainfo.

    Args:
        datasets: Configs of two data sets of the same images: with the pipeline of training and with that of a test.
        held_out: How many images are held out; they are drawn at random, always the same.
        seed: What to draw them with.

    Attributes:
        sizes: Number of training and of held-out images; the latter have the numbers after those of the former.

    Raises:
        UsageError: If the data sets differ in length, or ``held_out`` leaves nothing on either side.
    """

    def __init__(self, datasets: list[dict], held_out: int, seed: int = 0) -> None:
        if len(datasets) != 2:
            raise UsageError(
                f'SearchDataset: expected two datasets, of the same images with the pipelines of training and test, '
                f'got {len(datasets)}'
            )
        self.training, self.testing = (DATASETS.build(dict(dataset)) for dataset in datasets)
        images = len(self.training)
        if len(self.testing) != images:
            raise UsageError(
                f'SearchDataset: expected the same images twice, got {images} and {len(self.testing)}; only the '
                f'pipelines of the two datasets may differ'
            )
        if not isinstance(held_out, int) or not 0 < held_out < images:
            raise UsageError(
                f'held_out of SearchDataset: expected 1 to {images - 1} of {images} images, got {held_out!r}'
            )
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).tolist()
        self._order = sorted(order[held_out:]) + sorted(order[:held_out])
        self.sizes = images - held_out, held_out

    @property
    def metainfo(self) -> dict:
        """That of the training images."""
        return self.training.metainfo

    def full_init(self) -> None:
        """Nothing: both are read already."""

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict:
        if index < self.sizes[0]:
            return self.training[self._order[index]]
        sample = self.testing[self._order[index]]
        sample['data_samples'].set_metainfo(dict(held_out=True))
        return sample


@register_in(DATA_SAMPLERS)
class SearchBatchSampler(Sampler):
    """An epoch of a search: batches of training images, each image once, then batches of held-out ones.

    Batches are all of the same size; what is left of an epoch's training images is dropped. The held-out images are
    shuffled, and again once they are used up.

    Args:
        sampler: A sampler of a :class:`SearchDataset`, mmengine's DefaultSampler, of which seed and epoch are taken.
        batch_size: Images of a batch.
        drop_last: Taken because mmengine gives it; always true.
        controller_steps: Held-out batches of an epoch.
        training_steps: Training batches of an epoch, where not all shall be used.

    Raises:
        UsageError: If the data are others, or too few for a batch.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        drop_last: bool = True,
        controller_steps: int = 30,
        training_steps: int | None = None,
    ) -> None:
        dataset = getattr(sampler, 'dataset', None)
        if not isinstance(dataset, SearchDataset):
            raise UsageError(f'SearchBatchSampler: expected a SearchDataset, got {type(dataset).__name__}')
        least = min(dataset.sizes)
        if least < batch_size:
            raise UsageError(
                f'SearchBatchSampler: {dataset.sizes[0]} training and {dataset.sizes[1]} held-out images do not make '
                f'batches of {batch_size}; expected train_dataloader.batch_size of at most {least}'
            )
        whole = dataset.sizes[0] // batch_size
        if controller_steps < 1 or training_steps is not None and not 1 <= training_steps <= whole:
            raise UsageError(
                f'SearchBatchSampler: expected controller_steps of at least 1 and training_steps of 1 to {whole}, the '
                f'batches of {batch_size} in {dataset.sizes[0]} images; got {controller_steps} and {training_steps}'
            )
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, True
        self.training_steps = whole if training_steps is None else training_steps
        self.controller_steps = controller_steps

    def __len__(self) -> int:
        return self.training_steps + self.controller_steps

    def __iter__(self) -> Iterator[list[int]]:
        training, held_out = self.sampler.dataset.sizes
        generator = torch.Generator().manual_seed(self.sampler.seed + self.sampler.epoch)
        order = torch.randperm(training, generator=generator).tolist()
        for step in range(self.training_steps):
            yield order[step * self.batch_size : (step + 1) * self.batch_size]
        left: list[int] = []
        for _ in range(self.controller_steps):
            if len(left) < self.batch_size:
                left = (torch.randperm(held_out, generator=generator) + training).tolist()
            batch, left = left[: self.batch_size], left[self.batch_size :]
            yield batch
