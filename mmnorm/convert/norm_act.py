"""Norms with an activation inside, as timm has them: norm, drop, activation in one module.

The weights lie under the names that timm gives them (``bn1.weight``, ``bn1.act.weight``), so that checkpoints fit.
"""

from torch import Tensor, nn

from ..layers import ExemplarNorm2d, InstanceMetaNorm2d, SwitchableNorm2d


class _NormAct(nn.Module):
    """Mixin before a norm class: its output passes through ``drop`` and ``act``, which :func:`attach_act` adds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


# Written out, so that pickle finds them.
class SwitchableNormAct2d(_NormAct, SwitchableNorm2d):
    """Switchable Normalization, drop and activation."""


class ExemplarNormAct2d(_NormAct, ExemplarNorm2d):
    """Exemplar Normalization, drop and activation."""


class InstanceMetaNormAct2d(_NormAct, InstanceMetaNorm2d):
    """Instance-Level Meta Normalization, drop and activation."""


class BatchNormAct2d(_NormAct, nn.BatchNorm2d):
    """Batch normalization, drop and activation."""


class SyncBatchNormAct(_NormAct, nn.SyncBatchNorm):
    """Batch normalization over all processes, drop and activation."""


class InstanceNormAct2d(_NormAct, nn.InstanceNorm2d):
    """Instance normalization, drop and activation."""


class GroupNormAct(_NormAct, nn.GroupNorm):
    """Group normalization, drop and activation."""


_CLASSES = {cls.__bases__[1]: cls for cls in _NormAct.__subclasses__()}
_CHILDREN = ('drop', 'act')


def has_act(module: nn.Module) -> bool:
    """Whether ``module`` is a norm with an activation inside, timm's or one of these, told by its two children."""
    return set(_CHILDREN) == set(module._modules)


def act_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that is ``cls`` followed by drop and activation.

    Raises:
        ValueError: If there is none.
    """
    if cls not in _CLASSES:
        raise ValueError(f'no {cls.__name__} with an activation inside; expected the norm of a 2d convolution')
    return _CLASSES[cls]


def attach_act(layer: nn.Module, source: nn.Module) -> nn.Module:
    """Move drop and activation of ``source``, if it has them, to ``layer``, and return it."""
    if has_act(source):
        for name in _CHILDREN:
            layer.add_module(name, source._modules[name])
    return layer
