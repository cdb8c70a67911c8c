"""Resuming exactly: what is random in an iteration depends on the seed and the iteration, not on what went before."""

from collections.abc import Iterator, Sequence
from itertools import count, islice

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset

from ..registry import register_in
from .randomness import seed_everything

# First word of a key, so that no two purposes ever share a stream.
_MODEL, _DATA = 1, 2
_BATCHES_DONE = 'mmnorm_batches_done'


class SeededBatch(Sequence):
    """The indices of a batch; whoever iterates over them, a worker or the process itself, is seeded first.

    Args:
        indices: The indices.
        key: What to seed with.
    """

    def __init__(self, indices: Sequence, key: tuple[int, ...]) -> None:
        self.indices, self.key = indices, key

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position):
        return self.indices[position]

    def __iter__(self) -> Iterator:
        seed_everything(*self.key)
        return iter(self.indices)


class NumberedBatches:
    """A batch sampler whose batches are numbered through the whole run, and seeded with their number.

    Args:
        batch_sampler: The batch sampler that chooses the indices; its other attributes are found here too.
        key: What to seed with, apart from the number.
        endless: Whether to begin again after the last batch, with the next epoch.

    Attributes:
        first: Number of the batch with which the next iteration over this begins ...
        skip: ... if not so many are left out.
    """

    def __init__(self, batch_sampler, key: tuple[int, ...], endless: bool) -> None:
        self.batch_sampler, self.key, self.endless = batch_sampler, key, endless
        self.first = self.skip = 0

    def __getattr__(self, name: str):
        if name.startswith('__') or name == 'batch_sampler':
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[SeededBatch]:
        batches = islice(self._batches(), self.skip, None)
        for number, batch in enumerate(batches, self.first + self.skip):
            yield SeededBatch(batch, (*self.key, number))

    def _batches(self) -> Iterator[Sequence]:
        if not self.endless:
            yield from self.batch_sampler
            return
        for epoch in count():
            # As mmengine's own iterator: the epochs of the sampler are counted from 0, whatever the loop's epoch is.
            set_epoch = getattr(getattr(self.batch_sampler, 'sampler', None), 'set_epoch', None)
            if set_epoch is not None:
                set_epoch(epoch)
            batch = None
            for batch in self.batch_sampler:
                yield batch
            if batch is None:
                return


class _EndlessIterator:
    """Takes the place of mmengine's iterator of iteration-based loops, which would load data to skip them.

    Args:
        loader: The loader; its batch sampler is endless, and stands where the run stopped.
        mock_skips: How many times the loop will call for a batch only to drop it.
    """

    def __init__(self, loader: DataLoader, mock_skips: int) -> None:
        self._loader, self._mock_skips = loader, mock_skips
        self._iterator: Iterator | None = None

    def __iter__(self) -> '_EndlessIterator':
        return self

    def __next__(self):
        if self._mock_skips > 0:
            self._mock_skips -= 1
            return None
        if self._iterator is None:
            self._iterator = iter(self._loader)
        return next(self._iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Nothing to do: the batch sampler has skipped them."""


@register_in(HOOKS)
class ExactResumeHook(Hook):
    """Makes a run that was interrupted and resumed compute what the uninterrupted one computes.

    mmengine's checkpoints hold no state of the random number generators, and no worker's could be held by them: the
    dropout, the random augmentations and, in a loop by iterations, the data of a resumed run are others. This hook
    seeds all generators before every iteration with the run's seed and the iteration, and whoever loads a batch, in
    whatever process, with the seed, the rank and the batch's number. Nothing has to be stored. Also validation in
    between, the number of workers and whether they persist no longer matter to the weights.

    The data are positioned without loading any: also in the middle of an epoch, where ``CheckpointHook`` saves by
    iteration in a loop by epochs. What a transform remembers from image to image (CachedMosaic) can't be restored, nor
    the gradients of an accumulation that a checkpoint cuts in two.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._batches: NumberedBatches | None = None
        self._batches_done = 0

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Remember how far the epoch was."""
        meta = checkpoint.get('meta')
        self._batches_done = meta.get(_BATCHES_DONE, 0) if isinstance(meta, dict) else 0

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Note how far the epoch is."""
        meta, loop = checkpoint['meta'], runner.train_loop
        if self._batches is not None and isinstance(loop, EpochBasedTrainLoop):
            meta[_BATCHES_DONE] = max(meta['iter'] - meta['epoch'] * len(loop.dataloader), 0)

    def before_train(self, runner) -> None:
        """Number the batches, and put them where the run stopped."""
        loop, self._batches = runner.train_loop, None
        loader = loop.dataloader
        if (
            not isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop)
            or not isinstance(loader, DataLoader)
            or isinstance(loader.dataset, IterableDataset)
            or loader.batch_sampler is None
        ):
            runner.logger.warning(
                f'ExactResumeHook knows no way to number the batches of {type(loader).__name__} in a '
                f'{type(loop).__name__}; a resumed run will see other data than an uninterrupted one'
            )
            return
        batch_sampler = loader.batch_sampler
        if isinstance(batch_sampler, NumberedBatches):
            batch_sampler = batch_sampler.batch_sampler
        endless = isinstance(loop, IterBasedTrainLoop)
        self._batches = NumberedBatches(batch_sampler, (_DATA, runner.seed, get_rank()), endless)
        # DataLoader refuses another batch sampler because an iterator might already use the old one; none does, below.
        vars(loader)['batch_sampler'] = self._batches
        if endless:
            self._batches.skip = loop.iter
            started = getattr(loop.dataloader_iterator, '_iterator', None) is not None
            if started:
                # Upstream's mmengine starts its iterator with the loop, and workers may have drawn from the sampler.
                loader._iterator = None
                sampler = getattr(batch_sampler, 'sampler', None)
                if sampler is not None and hasattr(sampler, '_indices_of_rank'):
                    sampler.indices = sampler._indices_of_rank()
                # What mmdet's batch sampler had gathered of images of one shape. A bucket that was full when its
                # iteration was given up would never be found full again, and the run would hang.
                for bucket in getattr(batch_sampler, '_aspect_ratio_buckets', ()):
                    del bucket[:]
            mock_skips = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else loop.iter
            loop.dataloader_iterator = _EndlessIterator(loader, mock_skips)

    def before_train_epoch(self, runner) -> None:
        """Number the batches of the epoch; of the first one after a checkpoint only those that are left."""
        if self._batches is not None and not self._batches.endless:
            self._batches.skip = self._batches_done if runner.iter > 0 else 0
            self._batches.first = runner.iter - self._batches.skip
            self._batches_done = 0

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Seed the generators of this process."""
        seed_everything(_MODEL, runner.seed, runner.iter)
