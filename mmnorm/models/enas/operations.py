"""The operations of ENAS's micro search space (arXiv 1802.03268, Section 2.3), with any norm."""

from collections import OrderedDict

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F


def normed(norm_cfg: dict, channels: int, **modules: nn.Module) -> nn.Sequential:
    """``modules`` in a row, and the norm of their ``channels`` under its own abbreviation."""
    name, norm = build_norm_layer(norm_cfg, channels)
    return nn.Sequential(OrderedDict(**modules, **{name: norm}))


def pointwise(inputs: int, channels: int, norm_cfg: dict) -> nn.Sequential:
    """ReLU, 1x1 convolution and norm: (N, inputs, H, W) to (N, channels, H, W)."""
    return normed(norm_cfg, channels, relu=nn.ReLU(), conv=nn.Conv2d(inputs, channels, 1, bias=False))


def separable(channels: int, size: int, stride: int, norm_cfg: dict) -> nn.Sequential:
    """ReLU, depthwise and pointwise convolution, norm, and all that once more, with stride 1."""

    def once(stride: int) -> nn.Sequential:
        depthwise = nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels, bias=False)
        conv = nn.Conv2d(channels, channels, 1, bias=False)
        return normed(norm_cfg, channels, relu=nn.ReLU(), depthwise=depthwise, conv=conv)

    return nn.Sequential(once(stride), once(1))


class FactorizedReduction(nn.Module):
    """Half the size, from all positions: half of the channels from the even ones, half from the odd ones.

    Args:
        inputs: Channels of the input.
        channels: Channels of the output, at least 2.
        norm_cfg: The norm.
    """

    def __init__(self, inputs: int, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, channels // 2, 1, bias=False)
        self.odd = nn.Conv2d(inputs, channels - channels // 2, 1, bias=False)
        self.norm_name, norm = build_norm_layer(norm_cfg, channels)
        self.add_module(self.norm_name, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, channels, ceil(H / 2), ceil(W / 2))."""
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[..., 1:, 1:]
        y = torch.cat([self.even(x[..., ::2, ::2]), self.odd(shifted[..., ::2, ::2])], dim=1)
        return self.get_submodule(self.norm_name)(y)


def build_operation(name: str, channels: int, stride: int, norm_cfg: dict) -> nn.Module:
    """One of :data:`.OPERATIONS`: (N, C, H, W) to the same, or with stride 2 to half the size, rounded up."""
    if name.startswith('sep_conv'):
        return separable(channels, int(name[-1]), stride, norm_cfg)
    if name == 'avg_pool_3x3':
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    if name == 'max_pool_3x3':
        return nn.MaxPool2d(3, stride, 1)
    return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels, norm_cfg)
