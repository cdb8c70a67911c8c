"""Which norm a module is, whoever wrote it, and what another norm has to know to take its place."""

import re
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..layers.base import LearnedNorm
from ..ops.compat import BatchNormBase, InstanceNormBase
from ..registry import NORMS
from .norm_act import has_act

# With those of :data:`mmnorm.registry.NORMS`, all that there are.
PLAIN_KINDS = ('BN', 'SyncBN', 'FrozenBN', 'GN', 'IN', 'LN')
# What carries over from one norm to another, where both have it.
_LEARNED_OPTIONS = ('normalizers', 'num_groups', 'sync', 'momentum', 'track_running_stats')
# Classes that compute what their name says, but are no subclasses of PyTorch's: mmcv's, torchvision's.
_PLAIN_FORWARDS = ('SyncBatchNorm', 'FrozenBatchNorm2d')
_RANK = re.compile(r'Norm\w*([123])d$')
_OTHER_NORM = re.compile(r'Norm(?:\d?d)?$')


def _ancestors(module: nn.Module) -> list[str]:
    return [cls.__name__ for cls in type(module).__mro__]


def kind_of(module: nn.Module) -> str | None:
    """One of :data:`PLAIN_KINDS`, or the kind of a learned norm; 'other' for other norms; None for what is no norm.

    mmcv's SyncBatchNorm and the frozen BatchNorms of torchvision and timm are told by the names of their classes: they
    have no ancestor in PyTorch, and need not be installed.
    """
    if isinstance(module, LearnedNorm):
        return module.kind or 'other'
    names = _ancestors(module)
    if any(name.startswith('FrozenBatchNorm') for name in names):
        return 'FrozenBN'
    if 'SyncBatchNorm' in names:
        return 'SyncBN'
    for kind, cls in {'BN': BatchNormBase, 'IN': InstanceNormBase, 'GN': nn.GroupNorm, 'LN': nn.LayerNorm}.items():
        if isinstance(module, cls):
            return kind
    is_norm = _OTHER_NORM.search(names[0]) and not module._modules
    return 'other' if is_norm else None


def rank_of(module: nn.Module) -> int | None:
    """1, 2 or 3 for the norm of a 1d, 2d or 3d convolution; None for a norm that takes any."""
    if isinstance(module, LearnedNorm):
        return module.rank
    for name in _ancestors(module):
        match = _RANK.search(name)
        if match:
            return int(match[1])
    return None


def channels_of(module: nn.Module) -> int:
    """Number of channels of a norm."""
    for name in ('num_features', 'num_channels'):
        if hasattr(module, name):
            return getattr(module, name)
    running_mean: Any = module.running_mean
    return running_mean.numel()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the norm itself, without those of an activation inside."""
    return {name: t for name, t in {**module._parameters, **module._buffers}.items() if t is not None}


def options_of(module: nn.Module) -> dict:
    """The arguments of the norm that another norm can take over."""
    kind = kind_of(module)
    options: dict[str, Any] = dict(eps=module.eps, affine=module.weight is not None)
    if kind in ('BN', 'SyncBN'):
        options.update(momentum=module.momentum, track_running_stats=module.track_running_stats)
        if kind == 'SyncBN':
            options.update(sync=True)
    elif kind == 'GN':
        options.update(num_groups=module.num_groups, base='GN')
    elif kind == 'IN':
        options.update(base='IN')
    elif kind in NORMS:
        options.update({name: getattr(module, name) for name in _LEARNED_OPTIONS if hasattr(module, name)})
    return options


def obstacle(module: nn.Module, named: bool) -> str | None:
    """Why the norm can't be replaced without breaking the model; None if it can.

    Args:
        module: A norm of any kind.
        named: Whether the user named this very class.
    """
    kind = kind_of(module)
    if kind == 'LN' and rank_of(module) is not None:
        return 'has statistics of each position, which no normalizer here has'
    if kind == 'LN':
        return 'normalizes the last dimensions; the layers here have channels in dimension 1'
    if kind == 'other':
        return 'not a norm over channels that is known here'
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return 'its channels are unknown before the first batch; run one, then convert'
    if 'parametrizations' in module._modules or set(module._parameters) - _parameter_names(kind):
        return 'its parameters are reparametrized or pruned; remove that first'
    if 'forward' in vars(module):
        return 'its forward was replaced'
    if not (named or has_act(module) or _has_plain_forward(module)):
        return 'its class has a forward of its own; name the class in types if it is a plain norm all the same'
    return None


def _parameter_names(kind: str | None) -> set[str]:
    return {'weight', 'bias'} | set(NORMS[kind].own_parameters if kind in NORMS else ())


def _has_plain_forward(module: nn.Module) -> bool:
    definer = next(cls for cls in type(module).__mro__ if 'forward' in vars(cls))
    return definer.__module__.startswith('torch.nn.') or definer.__name__ in (*_PLAIN_FORWARDS, 'LearnedNorm')


def statistics_of(module: nn.Module) -> str | int | None:
    """What the norm standardizes with: 'BN', 'SyncBN', or a number of groups of channels; None for any mixture.

    IN is GN with a group a channel, and LN is GN with one group; two norms with equal statistics, eps and affine
    parameters compute the same.
    """
    normalizer = module.sole_normalizer() if isinstance(module, LearnedNorm) else kind_of(module)
    if normalizer == 'BN' and getattr(module, 'sync', False):
        return 'SyncBN'
    if normalizer == 'IN' and getattr(module, 'running_mean', None) is not None:
        return None
    groups: dict[str | None, str | int | None] = {
        'GN': getattr(module, 'num_groups', None),
        'LN': 1,
        'IN': channels_of(module),
        'FrozenBN': 'BN',
    }
    return groups.get(normalizer, normalizer)


def same_function(first: nn.Module, second: nn.Module) -> bool:
    """Whether two norms with equal affine parameters compute the same."""
    statistics = statistics_of(first)
    if statistics is None or statistics != statistics_of(second) or first.eps != second.eps:
        return False
    return getattr(first, 'track_running_stats', True) == getattr(second, 'track_running_stats', True) or (
        'BN' not in str(statistics)
    )
