"""The hook that lets learned norms do what follows them."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..convert.fusion import fuse
from ..registry import register_in
from .batch_average import unwrap


@register_in(HOOKS)
class FuseHook(Hook):
    """Before a run, :func:`mmnorm.fuse`: residual sums and activations become part of the norms' passes.

    The state dict stays as it is.
    """

    # Before copies of the model are made, as by EMAHook.
    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Fuse, and say what could not be."""
        report = fuse(unwrap(runner.model))
        if report.fused or report.unfused:
            runner.logger.info(f'FuseHook: {report}')
        else:
            runner.logger.warning('FuseHook: the model has no learned norm that is not fused, so nothing changes')
