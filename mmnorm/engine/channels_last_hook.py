"""The hook that lets a model compute in channels_last."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..registry import register_in
from .batch_average import unwrap


@register_in(HOOKS)
class ChannelsLastHook(Hook):
    """Before a run, the weights of a model's 2d convolutions take PyTorch's channels_last memory format.

    What a convolution with such weights gives has the format too, and the learned norms hand it on; inputs and the
    data preprocessor stay as they are. Results are the same to rounding, and so are checkpoints. Which format is the
    faster one is the convolutions' matter: on GPUs in half precision this one, on CPUs for some networks.
    """

    # Before copies of the model are made, as by EMAHook.
    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Convert the weights in place, so that the optimizer keeps them."""
        unwrap(runner.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
