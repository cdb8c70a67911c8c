"""The U-Net generator of "Image-to-Image Translation with Conditional Adversarial Networks", with any norm."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...errors import UsageError
from ...registry import register_in
from ..instance_norm import with_affine
from .blocks import INIT, KERNEL, Block, NoisyDropout

_SLOPE = 0.2
# Blocks of the decoder that have dropout, from the innermost on, and the depth from which on it is all of them.
_WITH_DROPOUT, _DEEP = 3, 7


@register_in(MODELS)
class UNetGenerator(BaseModule):
    """An image to an image of the same size by an encoder, a decoder, and skip connections between (1611.07004, 6.1).

    Every block halves or doubles the resolution; a norm follows each convolution but the first, the innermost (whose
    single position IN would make zero) and the last, which a tanh ends.

    Args:
        norm_cfg: The norm; IN if None, and with gamma and beta unless it says ``affine=False``.
        num_downs: How many times the resolution is halved; the paper's 8 make 1x1 of 256x256.
        channels: Of the first block; the following have 2, 4 and then 8 times as many.
        dropout: Probability, in the three innermost blocks of the decoder; in two if there are 6 halvings, in one if
            there are less, so that what has few channels keeps them.
        dropout_in_test: Whether it is on in eval mode, too, as in the paper, whose only noise it is.
        init_cfg: As of mmengine's BaseModule; N(0, 0.02) for convolutions if None.

    Raises:
        UsageError: If there are not at least 2 halvings.
    """

    def __init__(
        self,
        norm_cfg: Mapping | None = None,
        num_downs: int = 8,
        channels: int = 64,
        dropout: float = 0.5,
        dropout_in_test: bool = True,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg or INIT)
        if num_downs < 2:
            raise UsageError(f'UNetGenerator: num_downs is {num_downs}, expected at least 2 halvings of the resolution')
        norm_cfg = with_affine(norm_cfg)
        self.num_downs = num_downs
        noisy = min(_WITH_DROPOUT, max(_WITH_DROPOUT - _DEEP + num_downs, 1))
        widths = [channels * min(2**i, 8) for i in range(num_downs)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            is_normed = 0 < i < num_downs - 1
            conv = nn.Conv2d(widths[i - 1] if i else 3, width, KERNEL, 2, 1, bias=not is_normed)
            self.down.append(Block(nn.LeakyReLU(_SLOPE) if i else None, conv, norm_cfg if is_normed else None))
        for i in range(num_downs - 1, -1, -1):
            # All but the innermost get what the encoder had at this resolution besides.
            before = widths[i] * (1 if i == num_downs - 1 else 2)
            width = widths[i - 1] if i else 3
            transposed = nn.ConvTranspose2d(before, width, KERNEL, 2, 1, bias=not i)
            noise = NoisyDropout(dropout, dropout_in_test) if num_downs - 1 - i < noisy else None
            self.up.append(Block(nn.ReLU(), transposed, norm_cfg if i else None, noise))

    def forward(self, x: Tensor) -> Tensor:
        """Translate images.

        Args:
            x: (N, 3, H, W), from -1 to 1; height and width are multiples of 2 ** num_downs.

        Returns:
            (N, 3, H, W), from -1 to 1.

        Raises:
            UsageError: If height or width does not fit.
        """
        height, width = x.shape[-2:]
        multiple = 2**self.num_downs
        if height % multiple or width % multiple or not height or not width:
            raise UsageError(
                f'UNetGenerator halves the resolution {self.num_downs} times, so height and width of its images must '
                f'be multiples of {multiple}; got {height}x{width}. Scale them in the pipeline (ResizePair, '
                f'scale=(width, height)), or halve less: model.generator.num_downs={_halvings(height, width)}'
            )
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = self.up[0](skips.pop())
        for block in self.up[1:]:
            x = block(torch.cat([x, skips.pop()], 1))
        return x.tanh()


def _halvings(height: int, width: int) -> int:
    """How many times both sides can be halved, of use from 2 on."""
    count = 0
    while height and width and not height % 2 and not width % 2:
        height, width, count = height // 2, width // 2, count + 1
    return max(count, 2)
