"""The PatchGAN discriminator of "Image-to-Image Translation with Conditional Adversarial Networks", with any norm."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...errors import UsageError
from ...registry import register_in
from ..instance_norm import with_affine
from .blocks import INIT, KERNEL, Block

_SLOPE = 0.2


@register_in(MODELS)
class PatchDiscriminator(BaseModule):
    """Judges every patch of an image, given what it was made from (1611.07004, 6.1.2); 70x70 pixels with 3 halvings.

    A norm follows each convolution but the first and the last.

    Args:
        norm_cfg: The norm; IN if None, and with gamma and beta unless it says ``affine=False``.
        num_downs: Convolutions of stride 2; the patch has 16, 34, 70, 142 pixels a side with 1, 2, 3, 4.
        channels: Of the first block; the following have 2, 4 and then 8 times as many.
        init_cfg: As of mmengine's BaseModule; N(0, 0.02) for convolutions if None.

    Raises:
        UsageError: If there is no halving.
    """

    def __init__(
        self, norm_cfg: Mapping | None = None, num_downs: int = 3, channels: int = 64, init_cfg: Any = None
    ) -> None:
        super().__init__(init_cfg or INIT)
        if num_downs < 1:
            raise UsageError(f'PatchDiscriminator: num_downs is {num_downs}, expected at least 1')
        norm_cfg = with_affine(norm_cfg)
        self.num_downs = num_downs
        widths = [channels * min(2**i, 8) for i in range(num_downs + 1)]
        self.blocks = nn.Sequential(Block(None, nn.Conv2d(6, widths[0], KERNEL, 2, 1)))
        for i in range(1, num_downs + 1):
            conv = nn.Conv2d(widths[i - 1], widths[i], KERNEL, 2 if i < num_downs else 1, 1, bias=False)
            self.blocks.append(Block(nn.LeakyReLU(_SLOPE), conv, norm_cfg))
        self.blocks.append(Block(nn.LeakyReLU(_SLOPE), nn.Conv2d(widths[-1], 1, KERNEL, 1, 1)))

    def forward(self, source: Tensor, image: Tensor) -> Tensor:
        """Judge images.

        Args:
            source: What they are made from, (N, 3, H, W), from -1 to 1.
            image: The images, of the same shape.

        Returns:
            (N, 1, h, w), logits of each patch being of a real image; h is H // 2 ** num_downs - 2, likewise w.

        Raises:
            UsageError: If the images are too small.
        """
        # The last norm needs 2x2 positions: IN has nothing to say of one.
        least = 3 * 2**self.num_downs
        if min(image.shape[-2:]) < least:
            raise UsageError(
                f'PatchDiscriminator with {self.num_downs} halvings needs images of at least {least}x{least}, got '
                f'{image.shape[-2]}x{image.shape[-1]}; scale them in the pipeline, or lower '
                f'model.discriminator.num_downs'
            )
        return self.blocks(torch.cat([source, image], 1))
