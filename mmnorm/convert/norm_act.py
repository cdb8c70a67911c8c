"""Norms with an activation inside, as timm has them: norm, drop, activation in one module.

The weights lie under the names that timm gives them (``bn1.weight``, ``bn1.act.weight``), so that checkpoints fit.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from ..layers.base import LearnedNorm
from ..ops import activation_of
from ..registry import NAMES

M = TypeVar('M', bound=nn.Module)

_CHILDREN = ('drop', 'act')
_PLAIN = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.GroupNorm)


class _NormAct(nn.Module):
    """Mixin before a norm class: its output passes through ``drop`` and ``act``, which :func:`attach_act` adds."""

    # Set by mmnorm.fuse.
    is_fused: bool = False

    if TYPE_CHECKING:
        drop: nn.Module
        act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        if self.is_fused:
            return super().forward(x, activation=activation_of(self.act))
        return self.act(self.drop(super().forward(x)))


def has_act(module: nn.Module) -> bool:
    """Whether ``module`` is a norm with an activation inside, timm's or one of these, told by its two children."""
    return set(_CHILDREN) == set(module._modules)


def act_class(cls: type[M]) -> type[M]:
    """The class that is ``cls`` followed by drop and activation, e.g. ``ExemplarNormAct2d``.

    Raises:
        ValueError: If there is none.
    """
    is_2d = issubclass(cls, LearnedNorm) and cls.rank == 2
    if not is_2d and cls not in _PLAIN:
        raise ValueError(f'no {cls.__name__} with an activation inside; expected the norm of a 2d convolution')
    name = _act_name(cls)
    made = globals().get(name)
    if made is None or made.__bases__[1] is not cls:
        body = dict(__module__=__name__, __doc__=f'{cls.__name__}, drop and activation.')
        metaclass: Callable[..., type[M]] = type(cls)
        made = globals()[name] = metaclass(name, (_NormAct, cls), body)
    return made


def _act_name(cls: type[nn.Module]) -> str:
    stem = cls.__name__.removesuffix('2d')
    return f'{stem}Act{cls.__name__[len(stem) :]}'


def __getattr__(name: str) -> type[nn.Module]:
    # Pickle looks for classes here which in this process nobody has asked for yet.
    for cls in (*_PLAIN, *NAMES.values()):
        if name == _act_name(cls):
            return act_class(cls)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def attach_act(layer: nn.Module, source: nn.Module) -> nn.Module:
    """Move drop and activation of ``source``, if it has them, to ``layer``, and return it."""
    if has_act(source):
        for name in _CHILDREN:
            layer.add_module(name, source._modules[name])
    return layer
