"""One network with one norm after another in the same places."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

from torch import nn

from ..convert.configs import parse_norm
from ..convert.modules import convert_norm, revert_norm
from ..convert.selection import find_sites
from ..convert.sources import kind_of
from ..errors import UsageError
from ..layers.norm_eval import apply_norm_eval
from ..registry import NORMS

PLAIN = ('BN', 'GN', 'IN', 'LN')


def parse_variant(text: str) -> dict:
    """The norm_cfg of 'GN' (32 groups), or of 'EN' or 'EN(reduction=16)' as for ``--norm``.

    Raises:
        ValueError: If it is none of these.
    """
    if text in PLAIN:
        return dict(type=text)
    try:
        return parse_norm(text)
    except ValueError as error:
        raise ValueError(f'{error}; or one of {", ".join(PLAIN)} without arguments') from None


def with_norm(network: nn.Module, norm: Mapping, scope: Sequence[str] = ()) -> nn.Module:
    """A copy of a network that has another norm where it has BatchNorm, SN, EN or ILM; where it has none, for GN.

    Args:
        network: Any network; what its norms have learned is of no use for the copy.
        norm: What :func:`parse_variant` returns.
        scope: Names of sub-modules to limit it to; all if empty.

    Raises:
        UsageError: If there is nothing to replace, or ``scope`` names no sub-module.
    """
    network = deepcopy(network)
    present = {kind_of(site.module) for site in find_sites(network)}
    kinds = {'BN', 'SyncBN', *NORMS} & present or {'GN'} & present
    if not kinds:
        found = sorted({type(site.module).__name__ for site in find_sites(network)})
        raise UsageError(
            f'{type(network).__name__} has no norm to compare others with: expected BatchNorm, GroupNorm, SN, EN or '
            f'ILM, found {", ".join(found) or "none at all"}'
        )
    include = list(scope) or None
    try:
        if norm['type'] in NORMS:
            _put(network, norm, kinds, include)
        else:
            # By way of the learned norm that is this norm, which knows the rank of each layer.
            _put(network, dict(type='SN', normalizers=(norm['type'],)), kinds, include)
            revert_norm(network, types='SN', include=include)
    except ValueError as error:
        raise UsageError(f'{norm["type"]} cannot be put into {type(network).__name__}: {error}') from None
    apply_norm_eval(network)
    return network


def _put(network: nn.Module, norm: Mapping, kinds: set[str], include: list[str] | None) -> None:
    if norm['type'] in kinds:
        # A layer that is of the kind already would be left alone, whatever its arguments are.
        detour = 'SN' if norm['type'] == 'ILM' else 'ILM'
        convert_norm(network, detour, types=kinds, load_weights=False, include=include)
        kinds = {detour}
    convert_norm(network, dict(norm), types=kinds, load_weights=False, include=include)
