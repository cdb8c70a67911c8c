"""What generator and discriminator of pix2pix are made of."""

from collections.abc import Mapping

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F

# "All convolutions are 4x4 spatial filters" and weights start from N(0, 0.02): Isola et al., Sections 6.1 and 6.2.
KERNEL = 4
INIT = dict(type='Normal', layer=['Conv2d', 'ConvTranspose2d'], std=0.02)


class NoisyDropout(nn.Module):
    """Dropout that is the noise of a generator: on in tests too, unless ``in_test`` is false.

    Args:
        probability: Of a value to become 0.
        in_test: Whether it is on in eval mode.
    """

    def __init__(self, probability: float, in_test: bool) -> None:
        super().__init__()
        self.probability, self.in_test = probability, in_test

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return F.dropout(x, self.probability, self.training or self.in_test)

    def extra_repr(self) -> str:
        """The arguments."""
        return f'probability={self.probability}, in_test={self.in_test}'


class Block(nn.Module):
    """An activation, a convolution, and what follows it: a norm and dropout, if there are any.

    The activation comes first so that what a skip connection takes has none.

    Args:
        activation: E.g. nn.ReLU(); None for none.
        conv: The convolution or transposed convolution; one before a norm needs no bias.
        norm_cfg: The norm; None for none.
        dropout: None for none.
    """

    def __init__(
        self,
        activation: nn.Module | None,
        conv: nn.Conv2d | nn.ConvTranspose2d,
        norm_cfg: Mapping | None = None,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation or nn.Identity()
        self.conv = conv
        self.norm_name = ''
        if norm_cfg is not None:
            # Under the norm's own abbreviation, as everywhere in OpenMMLab.
            self.norm_name, norm = build_norm_layer(dict(norm_cfg), conv.out_channels)
            self.add_module(self.norm_name, norm)
        self.dropout = dropout or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        x = self.conv(self.activation(x))
        if self.norm_name:
            x = self.get_submodule(self.norm_name)(x)
        return self.dropout(x)
