"""Where the mix of SN and EN starts in a config whose weights come from BatchNorm: next to BN.

So the network begins as the one that was trained. docs/results.md has what it is worth, CamVid from a backbone with BN.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import read_weights
from ..layers.state_dict import source_of
from ..registry import NAMES
from .checkpoints import split_by_module

# What one normalizer gets; the others of the pool share the rest.
MOST = 0.98
# The norms that this was measured with.
_MEASURED = ('SN', 'EN')


def with_start(cfg: Mapping, norm: Mapping, trust: bool = False) -> dict:
    """Let a norm start next to BN where the weights of the config are those of a network with BatchNorm.

    Args:
        cfg: A config with a ``model``; ``load_from`` is looked at, and every ``pretrained`` and ``checkpoint`` of the
            model.
        norm: A norm_cfg. One that says ``init_ratios``, also None, which is uniform, stays as it is.
        trust: Whether checkpoints are read by torch.load, which runs whatever they say.

    Returns:
        The norm_cfg, with ``init_ratios`` if it is SN or EN with BN in its pool, and some checkpoint has BatchNorms and
        none has a learned norm.
    """
    layer = NAMES[norm['type']]
    if layer.kind not in _MEASURED or 'init_ratios' in norm:
        return dict(norm)
    normalizers = norm.get('normalizers', ('IN', 'LN', 'BN'))
    if 'BN' not in normalizers or len(normalizers) == 1 or not _starts_from_bn(cfg, trust):
        return dict(norm)
    return {**norm, 'init_ratios': next_to('BN', normalizers)}


def next_to(normalizer: str, pool: Sequence[str]) -> tuple[float, ...]:
    """Ratios with which one normalizer of a pool counts before all others, e.g. (0.01, 0.01, 0.98) for BN."""
    rest = (1 - MOST) / (len(pool) - 1)
    return tuple(MOST if name == normalizer else round(rest, 6) for name in pool)


def _starts_from_bn(cfg: Mapping, trust: bool) -> bool:
    kinds = [_kinds_of(path, trust) for path in dict.fromkeys(_checkpoints(cfg))]
    return any('BN' in found for found in kinds) and all(found <= {'BN', 'GN, LN or IN'} for found in kinds)


def _checkpoints(cfg: Mapping) -> Iterator[str]:
    """What the weights of a run start from."""
    if cfg.get('load_from'):
        yield cfg['load_from']
    yield from _pretrained(cfg.get('model'))


def _pretrained(node: Any) -> Iterator[str]:
    if isinstance(node, list | tuple):
        for child in node:
            yield from _pretrained(child)
    if not isinstance(node, dict):
        return
    # dict's own, as the types in a config of the new style are imported once they are looked at.
    given = (dict.get(node, key) for key in ('pretrained', 'checkpoint'))
    yield from (path for path in given if isinstance(path, str))
    for child in dict.values(node):
        yield from _pretrained(child)


def _kinds_of(path: str, trust: bool) -> set[str]:
    """Norms in a checkpoint: 'BN', 'SN' etc., 'GN, LN or IN', which every layer with weights may be."""
    if '://' in path:
        # Nothing is downloaded before the run does it. The hubs of PyTorch and OpenMMLab have BN, or say so.
        return {'GN, LN or IN'} if '_gn' in path.lower() else {'BN'}
    if not Path(path).is_file():
        # Whoever loads it has the better message.
        return set()
    try:
        # Names alone are looked at.
        weights, _ = read_weights(path, trust, mmap=True)
    except UsageError:
        return set()
    found = (source_of(entries) for entries in split_by_module(weights).values())
    return {kind for kind in found if kind is not None}
