"""From a learned norm to the plain one that comes closest."""

import torch
from torch import nn

from ..layers.base import LearnedNorm
from . import sources
from .norm_act import act_class, attach_act, has_act
from .selection import Site
from .tensors import copy_requires_grad, match_dtypes

_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d, None: nn.SyncBatchNorm}
_INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@torch.no_grad()
def build_plain(site: Site) -> tuple[nn.Module, bool, str]:
    """The plain norm that takes the place of a learned one. The model is not touched.

    Args:
        site: Where the learned norm stands.

    Returns:
        The layer, whether it computes what the learned norm computes, and what was dropped.
    """
    source = site.module
    assert isinstance(source, LearnedNorm)
    gamma, beta = source.plain_affine()
    tensors = [t for t in sources.tensors_of(source).values() if t.is_floating_point()]
    layer = _make(source, gamma is not None, device=tensors[0].device, dtype=tensors[0].dtype)
    statistics = {name: t for name, t in source._buffers.items() if t is not None}
    affine = {} if gamma is None else dict(weight=gamma, bias=beta)
    layer.load_state_dict({**affine, **{n: t for n, t in statistics.items() if getattr(layer, n, None) is not None}})
    match_dtypes(layer, source)
    copy_requires_grad(layer, source)
    layer.train(source.training)
    exact = sources.same_function(source, layer) and source.is_plain()
    dropped = [name for name in source.own_parameters if getattr(source, name) is not None]
    if source.norm_eval:
        dropped.append('norm_eval')
    return attach_act(layer, source), exact, f'without {", ".join(dropped)}'


def _make(source: LearnedNorm, affine: bool, **factory) -> nn.Module:
    rank, channels = sources.rank_of(source), source.num_features
    normalizer = source.closest_normalizer()
    cls: type[nn.Module]
    args: tuple
    options: dict
    if normalizer == 'BN':
        cls = nn.SyncBatchNorm if source.sync else _BATCH_NORMS[rank]
        args = channels, source.eps, source.momentum, affine, source.track_running_stats
        options = {}
    elif normalizer == 'IN' and rank is not None:
        cls, args, options = _INSTANCE_NORMS[rank], (channels,), dict(eps=source.eps, affine=affine)
    else:
        groups = {'GN': source.num_groups, 'LN': 1, 'IN': channels}[normalizer]
        cls, args, options = nn.GroupNorm, (groups, channels), dict(eps=source.eps, affine=affine)
    return (act_class(cls) if has_act(source) else cls)(*args, **options, **factory)
