"""The hook that makes ``norm_eval`` reach the learned norms."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..layers.norm_eval import apply_norm_eval
from ..registry import register_in


@register_in(HOOKS)
class NormEvalHook(Hook):
    """Before training, :func:`.apply_norm_eval`: norms of a backbone with ``norm_eval=True`` stay in eval mode."""

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        """Set the norms, before the loop puts the model into training mode."""
        count = apply_norm_eval(runner.model)
        if count:
            runner.logger.info(f'norm_eval: {count} learned norms stay in eval mode')
