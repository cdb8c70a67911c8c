"""The image transformation network of "Perceptual Losses for Real-Time Style Transfer" (1603.08155), with any norm."""

from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import register_in
from ..instance_norm import with_affine

# The residual blocks do not pad: each takes 2 from every side at a quarter of the resolution, 8 of the image.
_CROPPED_BY_A_BLOCK = 8


class NormedConv(nn.Module):
    """A convolution, its norm and a ReLU.

    Args:
        conv: The convolution, without a bias: the norm has one.
        norm_cfg: The norm.
        relu: Whether a ReLU follows.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, norm_cfg: dict, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        # Under the norm's own abbreviation, as everywhere in OpenMMLab, so that checkpoints of other norms are found.
        self.norm_name, norm = build_norm_layer(norm_cfg, conv.out_channels)
        self.add_module(self.norm_name, norm)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        return self.relu(self.get_submodule(self.norm_name)(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions without padding; what they leave of the input is added, and no ReLU follows.

    Args:
        channels: Of input and output.
        norm_cfg: The norm.
    """

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv1 = NormedConv(nn.Conv2d(channels, channels, 3, bias=False), norm_cfg)
        self.conv2 = NormedConv(nn.Conv2d(channels, channels, 3, bias=False), norm_cfg, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H - 4, W - 4)."""
        return self.conv2(self.conv1(x)) + x[..., 2:-2, 2:-2]


@register_in(MODELS)
class TransformationNetwork(BaseModule):
    """An image to an image of the same size: reflection padding, two convolutions of stride 2, residual blocks between,
    two of stride 1/2 (Johnson et al., supplementary material, Table 1).

    A norm follows every convolution but the last, which a tanh scales. Any size will do: what is missing to
    a multiple of 4 is padded too, and cut off at the end.

    Args:
        norm_cfg: The norm; IN if None, and with gamma and beta unless it says ``affine=False``.
        channels: Of the first convolution; twice and four times as many follow.
        num_blocks: Residual blocks.
        init_cfg: As of mmengine's BaseModule.
    """

    def __init__(
        self,
        norm_cfg: dict | None = None,
        channels: int = 32,
        num_blocks: int = 5,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = with_affine(norm_cfg)
        c = channels
        self.padding = num_blocks * _CROPPED_BY_A_BLOCK
        self.down = nn.Sequential(
            NormedConv(nn.Conv2d(3, c, 9, padding=4, bias=False), norm_cfg),
            NormedConv(nn.Conv2d(c, 2 * c, 3, 2, padding=1, bias=False), norm_cfg),
            NormedConv(nn.Conv2d(2 * c, 4 * c, 3, 2, padding=1, bias=False), norm_cfg),
        )
        self.residual = nn.Sequential(*(ResidualBlock(4 * c, norm_cfg) for _ in range(num_blocks)))
        self.up = nn.Sequential(
            NormedConv(nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, padding=1, output_padding=1, bias=False), norm_cfg),
            NormedConv(nn.ConvTranspose2d(2 * c, c, 3, 2, padding=1, output_padding=1, bias=False), norm_cfg),
        )
        self.last = nn.Conv2d(c, 3, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        """Stylize images.

        Args:
            x: (N, 3, H, W), RGB from 0 to 1.

        Returns:
            (N, 3, H, W), RGB from 0 to 1.
        """
        height, width = x.shape[-2:]
        # At least 2x2 between the residual blocks: PyTorch's IN refuses a single value.
        right, below = (self.padding + max(-side % 4, 8 - side) for side in (width, height))
        sides = self.padding, right, self.padding, below
        # Reflection has no more than the image to show.
        mode = 'reflect' if max(sides) < min(height, width) else 'replicate'
        y = self.up(self.residual(self.down(F.pad(x, sides, mode=mode))))
        return (self.last(y).tanh()[..., :height, :width] + 1) / 2
