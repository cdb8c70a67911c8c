"""The learned norms of a model, and where in it they stand."""

import re

from torch import nn

from ..errors import UsageError
from ..layers.base import LearnedNorm
from ..registry import LEARNS, kinds_in_words

_PARTS = {
    'backbone': 'backbone',
    'neck': 'neck',
    'rpn_head': 'RPN head',
    'roi_head.bbox_head': 'box head',
    'roi_head.mask_head': 'mask head',
    'bbox_head': 'box head',
    'mask_head': 'mask head',
    'decode_head': 'decode head',
    'auxiliary_head': 'auxiliary head',
    'head': 'head',
}


def learned_norms(model: nn.Module) -> dict[str, LearnedNorm]:
    """The layers of a model that have learned something to look at, by name.

    Raises:
        UsageError: If there are none.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, LearnedNorm) and module.learns
    }
    if not layers:
        others = sorted({type(m).__name__ for m in model.modules() if 'Norm' in type(m).__name__})
        raise UsageError(
            f'{type(model).__name__} has no {kinds_in_words(*LEARNS)} layer to look at; its norms are '
            f'{", ".join(others) or "none at all"}. Expected a model with e.g. norm_cfg=dict(type="EN"); '
            f'mmnorm train --norm EN puts one into any config.'
        )
    return layers


def part_of(name: str) -> str:
    """Part of the network that a layer belongs to, e.g. 'mask head' for 'roi_head.mask_head.convs.0.bn'."""
    for prefix, part in _PARTS.items():
        if f'{name}.'.startswith(f'{prefix}.'):
            return part
    return name.split('.')[0] if '.' in name else 'stem'


def stage_of(name: str) -> str:
    """As :func:`part_of`, the backbone by its stages: 'stem', 'layer1', ..."""
    part = part_of(name)
    if part != 'backbone':
        return part
    match = re.match(r'backbone\.(layer\d+|(?:stages?|blocks|features)\.\d+)\.', name)
    return match.group(1).replace('.', ' ') if match else 'stem'
