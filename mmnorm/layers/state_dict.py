"""Finding the weights of a layer that a checkpoint holds under the name of another norm.

OpenMMLab names a norm after its kind (``bn1``, ``gn1``, ``in1``, ``ln1``), so a config whose norm was swapped looks
for ``gn1.weight`` where the checkpoint has ``bn1.weight``. ``load_state_dict`` hands a layer only the entries under
its own name; the rename therefore happens one level up, before the parent loads.
"""

import re

from torch import Tensor, nn

ABBREVIATIONS = ('bn', 'gn', 'in', 'ln')
_NORM_NAME = re.compile(rf'(?:{"|".join(ABBREVIATIONS)})(\d*)')


def adopt_sibling_weights(parent: nn.Module) -> None:
    """Let the learned norms among the children of ``parent`` load what lies under a sibling name. Idempotent."""
    hooks = parent._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, 'hook', hook) is _rename_siblings for hook in hooks):
        parent._register_load_state_dict_pre_hook(_rename_siblings, with_module=True)


def _rename_siblings(parent: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
    from .base import LearnedNorm

    for name, child in parent._modules.items():
        match = _NORM_NAME.fullmatch(name)
        if match is None or not isinstance(child, LearnedNorm) or _entries(state_dict, f'{prefix}{name}.'):
            continue
        for abbreviation in ABBREVIATIONS:
            sibling = abbreviation + match[1]
            # A sibling that is a module of its own keeps its weights.
            if sibling in parent._modules:
                continue
            entries = _entries(state_dict, f'{prefix}{sibling}.')
            for key in entries:
                state_dict[f'{prefix}{name}.' + key[len(f'{prefix}{sibling}.') :]] = state_dict.pop(key)
            if entries:
                break


def _entries(state_dict: dict[str, Tensor], prefix: str):
    return [key for key in state_dict if key.startswith(prefix)]
