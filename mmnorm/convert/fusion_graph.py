"""A module's forward as a graph, in which what follows a learned norm becomes part of its call."""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..layers.base import LearnedNorm
from ..ops import Activation, activation_of

_SUMS = {operator.add: False, operator.iadd: True, torch.add: False, 'add': False, 'add_': True}
_FUNCTIONS = {
    F.relu: 'relu',
    torch.relu: 'relu',
    torch.relu_: 'relu',
    'relu': 'relu',
    'relu_': 'relu',
    F.leaky_relu: 'leaky_relu',
    F.silu: 'silu',
    F.gelu: 'gelu',
}


def norm_add(norm: LearnedNorm, x: Tensor, other: Tensor, activation: Activation | None, in_place: bool) -> Tensor:
    """``activation(norm(x) + other)``, in one pass where ``other`` is a tensor like x.

    Args:
        norm: The layer.
        x: Its input.
        other: What is added.
        activation: What follows.
        in_place: Whether the sum has the type of ``norm(x)``, whatever that of ``other`` is.
    """
    if isinstance(other, Tensor) and other.shape == x.shape and other.dtype == x.dtype:
        return norm(x, other, activation)
    y = norm(x)
    y = y.add_(other) if in_place else y + other
    return y if activation is None else activation(y)


class NotTraceable(Exception):
    """The forward of a module is no fixed graph."""


class _Proxy(fx.Proxy):
    """Keeps changes in place, which another name of the tensor may see; fx makes new tensors of them."""


def _in_place(function: Callable) -> Callable:
    return lambda self, other: self.tracer.create_proxy('call_function', function, (self, other), {})


for _name in ('iadd', 'isub', 'imul', 'itruediv'):
    setattr(_Proxy, f'__{_name}__', _in_place(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    """Of one module: whatever it has inside is taken as it is."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace(module: Any) -> fx.Graph:
    """The graph of the forward of ``module``, with what has a default given it.

    Raises:
        NotTraceable: If it depends on values, or differs between training and evaluation.
    """
    was_training, code = module.training, {}
    try:
        for mode in (True, False):
            # Of this module alone: its children are not looked into.
            module.training = mode
            graph = _Tracer().trace(module, concrete_args=_defaults(module))
            _without_defaults(graph)
            code[mode] = graph.python_code('self').src
    except Exception as error:  # whatever a forward may raise that meets no tensors
        raise NotTraceable(str(error).partition('\n')[0]) from None
    finally:
        module.training = was_training
    if code[True] != code[False]:
        raise NotTraceable('it computes something else in training than in evaluation')
    return graph


def trace_with_checkpoints(module: Any) -> tuple[fx.Graph, bool]:
    """:func:`trace`, for blocks of OpenMMLab whose ``with_cp`` lets them forget their activations.

    Returns:
        The graph, without that, and whether it is this module's forward that asks for ``with_cp``.
    """
    if 'with_cp' not in vars(module):
        return trace(module), False
    had, asks = module.with_cp, False
    try:
        module.with_cp = True
        try:
            trace(module)
        except NotTraceable:
            asks = True
        module.with_cp = False
        return trace(module), asks
    finally:
        module.with_cp = had


def _defaults(module: nn.Module) -> dict:
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise NotTraceable('its forward takes any number of arguments')
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _without_defaults(graph: fx.Graph) -> None:
    """Take away the arguments that have their defaults, and what makes sure of that."""
    for node in reversed(list(graph.nodes)):
        if node.op == 'call_function' and 'assert' in node.target.__name__ and not node.users:
            value = node.args[0]
            graph.erase_node(node)
            while isinstance(value, fx.Node) and value.op != 'placeholder' and not value.users:
                last, value = value, value.args[0]
                graph.erase_node(last)
    for node in list(graph.nodes):
        if node.op == 'placeholder' and node.args and not node.users:
            graph.erase_node(node)


def absorb(graph: fx.Graph, module: nn.Module) -> dict[str, str]:
    """Let the calls of learned norms in ``graph`` do the sums and activations that follow, in place.

    Returns:
        For each norm that does, by its name in ``module``, what.
    """
    found = {}
    for node in list(graph.nodes):
        if node.op == 'call_module' and type(module.get_submodule(node.target)) is nn.Identity and len(node.args) == 1:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    # A sum that an activation follows goes with it.
    nodes = sorted(graph.nodes, key=lambda node: _activation_of(node, module) is None)
    for node in nodes:
        if node._erased:
            continue
        activation = _activation_of(node, module)
        total = node.args[0] if activation is not None else node
        if not isinstance(total, fx.Node) or (total is not node and len(total.users) > 1):
            continue
        parts = _parts(total, module)
        if parts is None:
            continue
        norm, other, in_place = parts
        words = [word for word in ('sum' if other is not None else '', activation and activation.name) if word]
        if not words:
            continue
        with graph.inserting_before(node):
            if other is None:
                new = graph.call_module(norm.target, (norm.args[0], None, activation))
            else:
                layer = graph.get_attr(norm.target)
                new = graph.call_function(norm_add, (layer, norm.args[0], other, activation, in_place))
        node.replace_all_uses_with(new)
        for old in dict.fromkeys((node, total, norm)):
            graph.erase_node(old)
        found[norm.target] = ' and '.join(words)
    return found


def _activation_of(node: Any, module: nn.Module) -> Activation | None:
    if node.op == 'call_module':
        return activation_of(module.get_submodule(node.target))
    name = _FUNCTIONS.get(node.target) if node.op in ('call_function', 'call_method') else None
    options: dict[str, Any] = {k: v for k, v in node.kwargs.items() if k != 'inplace'}
    if name is None or options.keys() - {'negative_slope'} or len(node.args) > 1:
        return None
    return Activation(name, **options)


def _parts(node: Any, module: nn.Module) -> tuple[Any, fx.Node | None, bool] | None:
    """The call of a norm that ``node`` is, or the two that it adds: norm, other, and whether in place."""
    if _is_norm(node, module):
        return node, None, False
    is_sum = node.op in ('call_function', 'call_method') and node.target in _SUMS
    if not is_sum or len(node.args) != 2 or node.kwargs:
        return None
    in_place = _SUMS[node.target]
    # What is added to in place may be a view of something that is used elsewhere, unless it is the norm's output.
    for norm, other in (node.args,) if in_place else (node.args, node.args[::-1]):
        if _is_norm(norm, module) and len(norm.users) == 1 and isinstance(other, fx.Node) and other is not norm:
            return norm, other, in_place
    return None


def _is_norm(node: Any, module: nn.Module) -> bool:
    if getattr(node, 'op', None) != 'call_module' or len(node.args) != 1 or node.kwargs:
        return False
    layer = module.get_submodule(node.target)
    # Those with an activation inside have children.
    return isinstance(layer, LearnedNorm) and layer.activation is None and not layer._modules
