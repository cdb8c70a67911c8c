"""Loading what another norm wrote: under which name it lies, and what it means here.

OpenMMLab names a norm after its kind (``bn1``, ``gn1``, ``in1``, ``ln1``), so a config whose norm was swapped looks
for ``gn1.weight`` where the checkpoint has ``bn1.weight``. ``load_state_dict`` hands a layer only the entries under
its own name; the rename therefore happens one level up, before the parent loads.

What another norm wrote is first reduced to :class:`ForeignState`, what all norms have: gamma, beta, running statistics
and, from a learned norm, the ratios that hold for every sample. Each layer starts from that.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

ABBREVIATIONS = ('bn', 'gn', 'in', 'ln')
BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')
NORM_NAME = re.compile(rf'(?:{"|".join(ABBREVIATIONS)})(\d*)')
AFFINE = ('weight', 'bias')
# The parameters that only one of the learned norms has. EN's convolution is left out in some of its variants.
OWN_PARAMETERS = {
    'SN': ('mean_weight', 'var_weight'),
    'EN': ('conv_weight', 'fc1_weight', 'fc1_bias', 'fc2_weight', 'fc2_bias'),
    'ILM': ('encoder_weight', 'mean_decoder_weight', 'var_decoder_weight'),
}


def adopt_sibling_weights(parent: nn.Module) -> None:
    """Let the learned norms among the children of ``parent`` load what lies under a sibling name. Idempotent."""
    hooks = parent._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, 'hook', hook) is _rename_siblings for hook in hooks):
        parent._register_load_state_dict_pre_hook(_rename_siblings, with_module=True)


def _rename_siblings(parent: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
    from .base import LearnedNorm

    for name, child in parent._modules.items():
        match = NORM_NAME.fullmatch(name)
        if match is None or not isinstance(child, LearnedNorm) or _keys(state_dict, f'{prefix}{name}.'):
            continue
        for abbreviation in ABBREVIATIONS:
            sibling = abbreviation + match[1]
            # A sibling that is a module of its own keeps its weights.
            if sibling in parent._modules:
                continue
            keys = _keys(state_dict, f'{prefix}{sibling}.')
            for key in keys:
                state_dict[f'{prefix}{name}.' + key[len(f'{prefix}{sibling}.') :]] = state_dict.pop(key)
            if keys:
                break


def _keys(state_dict: dict[str, Tensor], prefix: str) -> list[str]:
    return [key for key in state_dict if key.startswith(prefix)]


def source_of(names: Iterable[str]) -> str | None:
    """Which norm wrote entries of these names: 'SN', 'EN', 'ILM', 'BN', or 'GN, LN or IN'; None for no norm."""
    names = set(names)
    for source, own in OWN_PARAMETERS.items():
        if names.issuperset(set(own) - {'conv_weight'}):
            return source
    if 'running_mean' in names:
        return 'BN'
    return 'GN, LN or IN' if names.intersection(AFFINE) else None


@dataclass
class ForeignState:
    """What a norm of another kind wrote, reduced to what all norms have.

    Attributes:
        source: Its kind, as :func:`source_of` says.
        entries: ``weight`` and ``bias``, (C,), and the running statistics, as far as there are any.
        logits: Logits of the ratios that hold for every sample, (K,); None where there are none.
        dropped: What these leave out, in words.
    """

    source: str
    entries: dict[str, Tensor]
    logits: Tensor | None = None
    dropped: list[str] = field(default_factory=list)


def reduce_state(entries: dict[str, Tensor]) -> ForeignState:
    """Reduce what a norm wrote to what all norms have.

    SN passes on the weights of its variances as ratios, EN its ratios if they are the same for every sample. EN's
    gammas are averaged by the ratios of a sample without correlations, its betas summed. ILM's gamma and beta are those
    of a sample whose key features predict nothing (decoders at zero, with the paper's sigmoid and tanh).

    Args:
        entries: Parameters and buffers by name, without the path of the layer.
    """
    source = source_of(entries)
    state = ForeignState(source, {name: entries[name] for name in (*AFFINE, *BUFFERS) if name in entries})
    if source == 'SN':
        state.logits = entries['var_weight']
        if not torch.equal(*(entries[name].float().softmax(0) for name in OWN_PARAMETERS['SN'])):
            state.dropped.append('the weights of the means')
    elif source == 'EN':
        _merge_rows(state, entries['fc2_bias'].float().softmax(0))
        if not entries['fc2_weight'].any():
            state.logits = entries['fc2_bias']
        else:
            state.dropped.append('the ratios of each sample')
    elif source == 'ILM':
        if 'weight' in state.entries:
            state.entries['weight'] = state.entries['weight'] + 0.5
        if entries['mean_decoder_weight'].any() or entries['var_decoder_weight'].any():
            state.dropped.append('what the key features predict')
    return state


def split_affine(weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Gamma and beta of EN's K normalizers, (K, C), from those of one norm, (C,).

    EN's ratios sum to 1, so gamma goes to every normalizer whole; its K betas are summed, so each is a part.
    :func:`merge_affine` gives back the same bits.
    """
    parts = (bias / k).repeat(k, 1)
    # Three thirds need not sum to the whole. The last part is what is left, which no rounding changes, as the others
    # are at least a half.
    if k > 1:
        parts[-1] = bias - reduce(torch.add, parts[:-1])
    return weight.repeat(k, 1), parts


def merge_affine(weight: Tensor, bias: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Gamma and beta of one norm, (C,), from EN's, (K, C): the gammas' mean by their ratios (K,), the betas' sum."""
    # Written so that rows that are all the same give that row, bit by bit.
    mean = weight[0] + (ratios.to(weight)[:, None] * (weight - weight[0])).sum(0)
    return mean, reduce(torch.add, bias)


def _merge_rows(state: ForeignState, ratios: Tensor) -> None:
    weight, bias = (state.entries.get(name) for name in AFFINE)
    if weight is None or bias is None or not weight.dim() == bias.dim() == 2:
        return
    state.entries['weight'], state.entries['bias'] = merge_affine(weight, bias, ratios)
    if (weight != weight[0]).any():
        state.dropped.append('the differences between the gammas of the normalizers')
