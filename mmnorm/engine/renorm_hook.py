"""The schedule of Batch Renormalization."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..layers.batch_renorm import BatchRenorm
from ..registry import register_in
from .batch_average import unwrap


@register_in(HOOKS)
class RenormHook(Hook):
    """Lets the bounds of BRN layers grow in training, from those of BN to the layers' ``r_max`` and ``d_max``.

    The paper's schedule (arXiv 1702.03275, Section 4.1) is the default. The bounds are part of the state dict.

    Args:
        begin: Iterations with BN alone.
        r_end: Iteration at which the bound of r is the layer's.
        d_end: Likewise of d.
    """

    def __init__(self, begin: int = 5000, r_end: int = 40000, d_end: int = 25000) -> None:
        if not 0 <= begin < min(r_end, d_end):
            raise ValueError(
                f'expected iterations 0 <= begin < r_end and d_end, got begin={begin!r}, r_end={r_end!r} and '
                f'd_end={d_end!r}'
            )
        self.begin = begin
        self.ends = r_end, d_end

    def before_train(self, runner) -> None:
        """Say so if there is no such layer."""
        if not _layers(runner.model):
            runner.logger.warning('RenormHook: the model has no BRN layer, whose bounds could grow')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Set the bounds of this iteration."""
        parts = [min(max((runner.iter - self.begin) / (end - self.begin), 0.0), 1.0) for end in self.ends]
        for layer in _layers(runner.model):
            layer.set_bounds(*parts)


def _layers(model) -> list[BatchRenorm]:
    return [module for module in unwrap(model).modules() if isinstance(module, BatchRenorm)]
