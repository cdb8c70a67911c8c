"""From a learned norm to the plain one that comes closest."""

import torch
from torch import Tensor, nn

from ..layers.base import LearnedNorm, PooledNorm
from ..ops.closed_form.instance_meta import ACTIVATIONS
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
    return _merge_rows(layer.weight, mixing_ratios(layer)), layer.bias.reshape(-1, layer.num_features).sum(0)


def _merge_rows(weight: Tensor, ratios: Tensor) -> Tensor:
    """EN's gamma (K, C) as one row: exactly that of the rows where they agree, else their mean by the ratios."""
    rows = weight.reshape(-1, weight.shape[-1])
    if len(rows) == 1:
        return rows[0]
    mean = (ratios.to(rows.dtype)[:, None] * rows).sum(0)
    return torch.where((rows == rows[0]).all(0), rows[0], mean)


def mixing_ratios(layer: PooledNorm) -> Tensor:
    """How much each normalizer counts, (K,): SN's mean over both weights; EN's for a sample without correlations."""
    if hasattr(layer, 'importance_weights'):
        return layer.importance_weights().mean(0)
    return layer.fc2_bias.float().softmax(0)


def _make(source: LearnedNorm, affine: bool, **factory) -> nn.Module:
    rank, channels = sources.rank_of(source), source.num_features
    normalizer = source.base if not isinstance(source, PooledNorm) else 'BN'
    if isinstance(source, PooledNorm) and 'BN' not in source.normalizers:
        normalizer = source.normalizers[int(mixing_ratios(source).argmax())]
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
    """Whether the layer predicts the same scale and shift for every sample: where ILM's decoders are zero."""
    decoders = [getattr(layer, name, None) for name in ('mean_decoder_weight', 'var_decoder_weight')]
    return not any(decoder is not None and decoder.any() for decoder in decoders)
