"""Inception v2, also known as BN-Inception: "Batch Normalization: Accelerating Deep Network Training" (1502.03167)."""

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..registry import register_in

# Figure 5 of the paper. Channels of the 1x1 branch (0: there is none), of the reduction and the convolution of the 3x3
# branch, of the reduction and the two convolutions of the double 3x3 branch, kind and projection of the pooling (0: the
# input passes through and the module has stride 2).
_MODULES = {
    '3a': (64, (64, 64), (64, 96), 'avg', 32),
    '3b': (64, (64, 96), (64, 96), 'avg', 64),
    '3c': (0, (128, 160), (64, 96), 'max', 0),
    '4a': (224, (64, 96), (96, 128), 'avg', 128),
    '4b': (192, (96, 128), (96, 128), 'avg', 128),
    '4c': (160, (128, 160), (128, 160), 'avg', 96),
    '4d': (96, (128, 192), (160, 192), 'avg', 96),
    '4e': (0, (128, 192), (192, 256), 'max', 0),
    '5a': (352, (192, 320), (160, 224), 'avg', 128),
    '5b': (352, (192, 320), (192, 224), 'max', 128),
}


class InceptionModule(BaseModule):
    """Branches of 1x1, 3x3 and double 3x3 convolutions and of pooling, concatenated.

    Args:
        in_channels: Channels of the input.
        single: Channels of the 1x1 branch; 0 if there is none.
        triple: Channels of the 3x3 branch: of its reduction, of its convolution.
        double: Channels of the double 3x3 branch: of its reduction, of each convolution.
        pool: 'avg' or 'max'.
        projection: Channels of the projection behind the pooling; 0 makes a module of stride 2 that has none.
        cfg: ``norm_cfg`` and whatever else mmcv's ConvModule takes.
    """

    def __init__(
        self,
        in_channels: int,
        single: int,
        triple: tuple[int, int],
        double: tuple[int, int],
        pool: str,
        projection: int,
        cfg: dict,
    ) -> None:
        super().__init__()
        stride = 1 if projection else 2
        branches = []
        if single:
            branches.append(ConvModule(in_channels, single, 1, **cfg))
        branches.append(
            nn.Sequential(
                ConvModule(in_channels, triple[0], 1, **cfg),
                ConvModule(triple[0], triple[1], 3, stride=stride, padding=1, **cfg),
            )
        )
        branches.append(
            nn.Sequential(
                ConvModule(in_channels, double[0], 1, **cfg),
                ConvModule(double[0], double[1], 3, padding=1, **cfg),
                ConvModule(double[1], double[1], 3, stride=stride, padding=1, **cfg),
            )
        )
        pooling = nn.AvgPool2d if pool == 'avg' else nn.MaxPool2d
        pooled = pooling(3, stride=stride, padding=1)
        branches.append(nn.Sequential(pooled, ConvModule(in_channels, projection, 1, **cfg)) if projection else pooled)
        self.branches = nn.ModuleList(branches)
        self.out_channels = single + triple[1] + double[1] + (projection or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


@register_in(MODELS)
class InceptionV2(BaseBackbone):
    """The convolutions of Inception v2, up to the global pooling: (N, 3, H, W) to (N, 1024, H/32, W/32), in a tuple.

    The first convolution is a plain one, as in most implementations; the paper's is separable.

    Args:
        norm_cfg: The norm behind each of the 69 convolutions.
        init_cfg: How weights start.
    """

    def __init__(
        self,
        norm_cfg: dict = dict(type='BN', requires_grad=True),  # noqa: B006  only read, as in mmpretrain
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Kaiming', layer=['Conv2d']))
        cfg = dict(norm_cfg=norm_cfg)
        self.stem = nn.Sequential(
            ConvModule(3, 64, 7, stride=2, padding=3, **cfg),
            nn.MaxPool2d(3, stride=2, padding=1),
            ConvModule(64, 64, 1, **cfg),
            ConvModule(64, 192, 3, padding=1, **cfg),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = 192
        self.inception = nn.ModuleDict()
        for name, setting in _MODULES.items():
            module = InceptionModule(channels, *setting, cfg)
            self.inception[name] = module
            channels = module.out_channels
        self.out_channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.stem(x)
        for module in self.inception.values():
            x = module(x)
        return (x,)
