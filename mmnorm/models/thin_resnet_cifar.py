"""ResNet-20, 32, 44, 56 and 110 for CIFAR: "Deep Residual Learning for Image Recognition" (arXiv 1512.03385)."""

from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.backbones.resnet_cifar import ResNet_CIFAR
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import register_in


class PaddedShortcut(nn.Module):
    """Identity that takes every ``stride``-th position and fills the new channels with zeros; no parameters.

    Args:
        new_channels: Number of channels that are added, half of them before those of the input, half after.
        stride: Stride of both spatial dimensions.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))

    def extra_repr(self) -> str:
        return f'new_channels={self.new_channels}, stride={self.stride}'


@register_in(MODELS)
class ThinResNetCIFAR(ResNet_CIFAR):
    """The ResNets of the ResNet paper's Section 4.2: three stages of 16, 32 and 64 channels, 6n + 2 layers.

    mmpretrain's ResNet_CIFAR, with other depths and widths. Shortcuts have no parameters (option A of the paper), so
    ResNet-20 has 19 norms and 0.27 M parameters.

    Args:
        depth: 20, 32, 44, 56 or 110.
        base_channels: Channels of the first stage.
        zero_init_residual: Whether the last gamma of each block starts at 0.
        **kwargs: As ResNet_CIFAR, e.g. ``norm_cfg``.

    Raises:
        KeyError: If there is no network of this depth.
    """

    arch_settings = {6 * n + 2: (BasicBlock, (n, n, n)) for n in (3, 5, 7, 9, 18)}

    def __init__(self, depth: int, base_channels: int = 16, zero_init_residual: bool = False, **kwargs) -> None:
        super().__init__(
            depth,
            stem_channels=base_channels,
            base_channels=base_channels,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
            zero_init_residual=zero_init_residual,
            **kwargs,
        )

    def make_res_layer(self, **kwargs) -> nn.Module:
        """A stage, with :class:`PaddedShortcut` in place of the convolution and norm of its first shortcut."""
        layer = super().make_res_layer(**kwargs)
        new_channels = kwargs['out_channels'] - kwargs['in_channels']
        if layer[0].downsample is not None:
            layer[0].downsample = PaddedShortcut(new_channels, kwargs['stride'])
        return layer
