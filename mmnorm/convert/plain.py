"""From a learned norm to the plain one that comes closest."""

import torch
from torch import Tensor, nn

from ..layers.base import LearnedNorm, PooledNorm
from ..layers.instance_meta_norm import ACTIVATIONS
from ..layers.state_dict import merge_affine
from . import sources
from .norm_act import act_class, attach_act, has_act
from .selection import Site
from .tensors import copy_requires_grad, match_dtypes

_BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d, None: nn.SyncBatchNorm}
_INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@torch.no_grad()
def build_plain(site: Site) -> tuple[nn.Module, bool, str]:
    """The plain norm that takes the place of SN, EN or ILM. The model is not touched.

    Args:
        site: Where the learned norm stands.

    Returns:
        The layer, whether it computes what the learned norm computes, and what was dropped.
    """
    source = site.module
    gamma, beta = plain_affine(source)
    tensors = [t for t in sources.tensors_of(source).values() if t.is_floating_point()]
    layer = _make(source, gamma is not None, device=tensors[0].device, dtype=tensors[0].dtype)
    statistics = {name: t for name, t in source._buffers.items() if t is not None}
    affine = {} if gamma is None else dict(weight=gamma, bias=beta)
    layer.load_state_dict({**affine, **{n: t for n, t in statistics.items() if getattr(layer, n, None) is not None}})
    match_dtypes(layer, source)
    copy_requires_grad(layer, source)
    layer.train(source.training)
    exact = sources.same_function(source, layer) and _is_constant(source)
    dropped = [name for name in source._own_parameters if getattr(source, name) is not None]
    if source.norm_eval:
        dropped.append('norm_eval')
    return attach_act(layer, source), exact, f'without {", ".join(dropped)}'


def plain_affine(layer: LearnedNorm) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Gamma and beta, both (C,), of the plain norm that comes closest to ``layer``; None where it needs none."""
    if isinstance(layer, sources.LEARNED['ILM']):
        gamma, beta = (
            ACTIVATIONS[activation](torch.zeros(())).item()
            for activation in (layer.var_activation, layer.mean_activation)
        )
        if layer.affine:
            return layer.weight + gamma, layer.bias + beta
        if (gamma, beta) == (0, 0):
            return None, None
        like = layer.encoder_weight.new_ones(layer.num_features)
        return like + gamma, like * beta
    if not layer.affine:
        return None, None
    if layer.weight.dim() == 1:
        return layer.weight, layer.bias
    return merge_affine(layer.weight, layer.bias, layer.fc2_bias.float().softmax(0))


def closest_normalizer(layer: LearnedNorm) -> str:
    """'BN' where the pool has it; otherwise the one with the largest ratio: EN's net counts by its last bias."""
    if not isinstance(layer, PooledNorm):
        return layer.base
    if 'BN' in layer.normalizers:
        return 'BN'
    is_switchable = isinstance(layer, sources.LEARNED['SN'])
    ratios = layer.importance_weights().sum(0) if is_switchable else layer.fc2_bias
    return layer.normalizers[0 if ratios.is_meta else int(ratios.argmax())]


def _make(source: LearnedNorm, affine: bool, **factory) -> nn.Module:
    rank, channels = sources.rank_of(source), source.num_features
    normalizer = closest_normalizer(source)
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


def _is_constant(layer: LearnedNorm) -> bool:
    """Whether ILM, where the layer is one, predicts the same for every sample, as its decoders are zero."""
    if not isinstance(layer, sources.LEARNED['ILM']):
        return True
    decoders = layer.mean_decoder_weight, layer.var_decoder_weight
    return not decoders[0].is_meta and not any(decoder.any() for decoder in decoders)
