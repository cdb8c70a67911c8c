"""Which module calls which after which, as far as ``torch.fx`` can trace a model."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

# What mmcv's ConvModule is asked for by all who call it; as arguments that are unknown, they would decide its branches.
_CONV_MODULE_ARGS = dict(activate=True, norm=True)


class Calls:
    """The calls of some modules of a model, in the mode that it is in, and what stands before each.

    A module whose forward can't be traced, because it asks for values of its input, say, is taken to pieces: the
    modules in it are traced by themselves, and it is an operation of its own in the graph of the module around it. What
    it does between its pieces stays unknown.

    Args:
        model: It is not changed.
        is_wanted: Which modules' calls are of interest. Others that have none of these below them are not looked into.

    Attributes:
        of: The calls of each wanted module, as nodes of a graph.
        module: The module that a node calls.
        read: The modules whose parameters or buffers are read outside of their own forward.
    """

    def __init__(self, model: nn.Module, is_wanted: Callable[[nn.Module], bool]) -> None:
        self.of: dict[nn.Module, list[fx.Node]] = defaultdict(list)
        self.module: dict[fx.Node, nn.Module] = {}
        self.read: set[nn.Module] = set()
        self._is_wanted = is_wanted
        # Modules that can't be traced: why, and the modules below them that can.
        self._errors: dict[nn.Module, str] = {}
        self._pieces: dict[nn.Module, list[nn.Module]] = {}
        self._graphs: dict[nn.Module, fx.Graph] = {}
        with _as_it_was(model), torch.no_grad():
            for root in dict.fromkeys(self._roots(model)):
                self._take(root)

    def why_unseen(self, module: nn.Module, holder: nn.Module) -> str:
        """Why there are no calls of a wanted module in :attr:`of`.

        Args:
            module: The module.
            holder: The one that has it.
        """
        if holder in self._errors:
            return f'torch.fx cannot trace {type(holder).__name__}, which has it: {self._errors[holder]}'
        return f'{type(holder).__name__}, which has it, does not call it in this mode'

    def _is_leaf(self, module: nn.Module) -> bool:
        return self._is_wanted(module) or not any(map(self._is_wanted, module.modules()))

    def _roots(self, module: nn.Module) -> list[nn.Module]:
        """The outermost modules of ``module`` that have a graph, itself or those below it."""
        if module in self._pieces:
            return self._pieces[module]
        if self._is_leaf(module):
            return []
        if module in self._graphs or self._trace(module):
            return [module]
        below = [root for child in module.children() for root in self._roots(child)]
        if any(child in self._errors for child in module.modules() if child is not module) and self._trace(module):
            # Now that it is known what to leave closed.
            del self._errors[module]
            called = {module.get_submodule(node.target) for node in self._graphs[module].nodes if _is_call(node)}
            return [module, *(root for piece in called for root in self._pieces.get(piece, ()))]
        self._pieces[module] = below
        return below

    def _trace(self, module: nn.Module) -> bool:
        if 'forward' in vars(module):
            # The tracer would take that of the class.
            self._errors[module] = 'its forward was replaced'
            return False
        tracer = _Tracer(lambda child: self._is_leaf(child) or child in self._errors)
        is_conv_module = any(cls.__name__ == 'ConvModule' for cls in type(module).__mro__)
        try:
            self._graphs[module] = tracer.trace(module, _CONV_MODULE_ARGS if is_conv_module else None)
        except Exception as error:  # whatever a forward makes of values that it can't have
            self._errors[module] = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return False
        return True

    def _take(self, root: nn.Module) -> None:
        for node in self._graphs[root].nodes:
            if _is_call(node):
                module = self.module[node] = root.get_submodule(node.target)
                self.of[module].append(node)
            elif node.op == 'get_attr':
                self.read.add(root.get_submodule(node.target.rpartition('.')[0]))


def _is_call(node: fx.Node) -> bool:
    return node.op == 'call_module'


class _Tracer(fx.Tracer):
    def __init__(self, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_leaf = is_leaf

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return self._is_leaf(module) or super().is_leaf_module(module, name)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Run forwards that may keep what they have seen, as attributes; and without checkpointing, which hides calls."""
    before: list[tuple[dict[str, Any], dict[str, Any]]] = [(vars(m), dict(vars(m))) for m in model.modules()]
    for attributes, _ in before:
        if 'with_cp' in attributes:
            attributes['with_cp'] = False
    try:
        yield
    finally:
        for attributes, saved in before:
            attributes.clear()
            attributes.update(saved)
