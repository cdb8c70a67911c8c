"""What another norm wrote, reduced to what all norms have; each layer starts from that.

Gamma, beta, running statistics and, from a learned norm, the ratios that hold for every sample.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from ..registry import NORMS

BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')
AFFINE = ('weight', 'bias')


@dataclass
class ForeignState:
    """What a norm of another kind wrote, reduced to what all norms have.

    Attributes:
        source: Its kind, as :func:`source_of` says; None for no norm.
        entries: ``weight`` and ``bias``, (C,), and the running statistics, as far as there are any.
        logits: Logits of the ratios that hold for every sample, (K,), or of those of means and variances, (2, K); None
            where there are none.
        dropped: What these leave out, in words.
    """

    source: str | None
    entries: dict[str, Tensor]
    logits: Tensor | None = None
    dropped: list[str] = field(default_factory=list)


def source_of(names: Iterable[str]) -> str | None:
    """Which norm wrote entries of these names: a kind such as 'SN', 'BN', or 'GN, LN or IN'; None for no norm."""
    names = set(names)
    fitting = [kind for kind, cls in NORMS.items() if cls.marker and names.issuperset(cls.marker)]
    if fitting:
        # The one that says most: a norm may have all parameters of another, and one more.
        return max(fitting, key=lambda kind: len(NORMS[kind].marker))
    if 'running_mean' in names:
        return 'BN'
    return 'GN, LN or IN' if names.intersection(AFFINE) else None


def reduce_state(entries: dict[str, Tensor]) -> ForeignState:
    """Reduce what a norm wrote to what all norms have.

    Args:
        entries: Parameters and buffers by name, without the path of the layer.
    """
    source = source_of(entries)
    state = ForeignState(source, {name: entries[name] for name in (*AFFINE, *BUFFERS) if name in entries})
    if source in NORMS:
        NORMS[source].reduce_state(entries, state)
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
