"""Under which name the weights of a norm lie in a checkpoint.

OpenMMLab names a norm after its kind (``bn1``, ``gn1``, ``in1``, ``ln1``), so a config whose norm was swapped looks
for ``gn1.weight`` where the checkpoint has ``bn1.weight``. ``load_state_dict`` hands a layer only the entries under
its own name; the rename therefore happens one level up, before the parent loads.

A layer is not told who its parent is. Only PyTorch's hook on the registration of modules is, which is one for the whole
process. So it is there while a layer waits for its parent, and gone once all have one.
"""

import re
import weakref
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

if TYPE_CHECKING:
    from typing_extensions import Self

ABBREVIATIONS = ('bn', 'gn', 'in', 'ln')
NORM_NAME = re.compile(rf'(?:{"|".join(ABBREVIATIONS)})(\d*)')

_waiting: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
_handle = None


class SiblingLoader(nn.Module):
    """A norm that takes the weights that lie under a sibling name, where there are none under its own."""

    def __init__(self) -> None:
        super().__init__()
        global _handle
        _waiting[id(self)] = self
        if _handle is None:
            _handle = register_module_module_registration_hook(_look_at)

    def train(self, mode: bool = True) -> 'Self':
        """Set the mode, as nn.Module does."""
        _stop_watching()
        return super().train(mode)

    def _load_from_state_dict(self, *args) -> None:
        _stop_watching()
        super()._load_from_state_dict(*args)


def _stop_watching() -> None:
    """Take the hook away if no layer waits any more. Not from inside of the hook, as PyTorch is iterating there."""
    global _handle
    if _handle is not None and not _waiting:
        _handle.remove()
        _handle = None


def _look_at(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    if isinstance(child, SiblingLoader) and _waiting.pop(id(child), None) is not None:
        _adopt(parent)


def _adopt(parent: nn.Module) -> None:
    """Let the learned norms among the children of ``parent`` load what lies under a sibling name. Idempotent."""
    hooks = parent._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, 'hook', hook) is _rename_siblings for hook in hooks):
        parent._register_load_state_dict_pre_hook(_rename_siblings, with_module=True)


def _rename_siblings(parent: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
    for name, child in parent._modules.items():
        match = NORM_NAME.fullmatch(name)
        if match is None or not isinstance(child, SiblingLoader) or _keys(state_dict, f'{prefix}{name}.'):
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
