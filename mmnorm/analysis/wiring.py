"""Where each norm stands in the network, watched while a batch runs: its order, its input, the convolution before."""

import re
import weakref
from dataclasses import dataclass

from torch import Tensor, nn

_SHORTCUT = re.compile(r'downsample|shortcut|skip')


@dataclass
class Place:
    """Where a norm stands.

    Attributes:
        conv: Convolution whose output it is given: '7x7', '3x3', '1x1', 'depthwise 3x3', 'linear'; 'shortcut' for any
            on a residual block's way around; '' for none.
        size: Of its input without batch and channels, e.g. (56, 56).
        maker: Name of that convolution in the network; '' for none.
    """

    conv: str
    size: tuple[int, ...]
    maker: str = ''


class Wiring:
    """Collects the :class:`Place` of each norm in :attr:`places`, in the order of the first calls.

    Names tell little about what precedes what; the tensors do: a norm follows the convolution that made its input.
    """

    def __init__(self, model: nn.Module) -> None:
        self.places: dict[str, Place] = {}
        # Until it is closed.
        self.is_open = True
        self._made_by: dict[int, tuple[weakref.ref, str, str]] = {}
        self._names = {module: name for name, module in model.named_modules()}
        self._hooks = [
            module.register_forward_hook(self._remember)
            for module in model.modules()
            if isinstance(module, nn.Linear) or hasattr(module, 'kernel_size') and hasattr(module, 'weight')
        ]

    def visit(self, name: str, x: Tensor) -> None:
        """Take note that the norm ``name`` is given ``x``."""
        if name not in self.places:
            made, conv, maker = self._made_by.get(id(x), (lambda: None, '', ''))
            conv, maker = (conv, maker) if made() is x else ('', '')
            conv = 'shortcut' if conv and _SHORTCUT.search(name) else conv
            self.places[name] = Place(conv, tuple(x.shape[2:]), maker)

    def close(self) -> None:
        """Stop watching the convolutions."""
        self.is_open = False
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._made_by = [], {}

    def _remember(self, module: nn.Module, args: tuple, output) -> None:
        if isinstance(output, Tensor):
            # An id alone may come again when a tensor is gone.
            self._made_by[id(output)] = weakref.ref(output), _describe(module), self._names[module]


def _describe(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return 'linear'
    kernel = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,)
    text = 'x'.join(map(str, kernel))
    groups = getattr(module, 'groups', 1)
    return f'depthwise {text}' if groups > 1 and groups == getattr(module, 'in_channels', None) else text
