"""The schedule of Sparse Switchable Normalization."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..layers.sparse_switchable_norm import SparseSwitchableNorm
from ..registry import register_in
from .batch_average import unwrap


@register_in(HOOKS)
class SparsityHook(Hook):
    """Makes the ratios of SSN layers sparser in the course of training, in proportion to its iterations.

    From the middle of the simplex, where all normalizers may count, to its corners, where one does: SSN paper
    (arXiv 1903.03793). The radius is part of the state dict, so a run that goes on does so where it was.

    Args:
        begin: Where the radius starts to grow, as a part of all iterations.
        end: Where the ratios are one-hot, likewise; the rest of the run has them so.
    """

    def __init__(self, begin: float = 0.0, end: float = 1.0) -> None:
        if not 0 <= begin < end <= 1:
            raise ValueError(f'expected 0 <= begin < end <= 1, parts of all iterations, got {begin!r} and {end!r}')
        self.begin = begin
        self.end = end

    def before_train(self, runner) -> None:
        """Say so if there is no such layer."""
        if not _layers(runner.model):
            runner.logger.warning('SparsityHook: the model has no SSN layer, so nothing becomes sparse')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Set the radius of this iteration; the last one has the one that it is tested with."""
        progress = (runner.iter + 1) / runner.max_iters
        sparsity = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        for layer in _layers(runner.model):
            layer.set_sparsity(sparsity)


def _layers(model) -> list[SparseSwitchableNorm]:
    return [module for module in unwrap(model).modules() if isinstance(module, SparseSwitchableNorm)]
