"""From a model to one whose learned norms do what follows them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers.base import LearnedNorm
from ..ops import activation_of
from .fusion_graph import NotTraceable, absorb, trace_with_checkpoints
from .norm_act import has_act


@dataclass
class FusionReport:
    """What :func:`fuse` has done.

    Attributes:
        fused: By the name of the norm, what goes into its pass: 'relu', 'sum', 'sum and relu', ...
        unfused: By the name of the norm, why nothing does.
    """

    fused: dict[str, str] = field(default_factory=dict)
    unfused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f'{len(self.fused)} of {len(self.fused) + len(self.unfused)} learned norms do what follows them']
        lines += [f'  {name}: alone, {reason}' for name, reason in self.unfused.items()]
        return '\n'.join(lines)


def fuse(model: nn.Module) -> FusionReport:
    """Let the learned norms of a model do the residual sums and activations that follow them, in place.

    What has a norm for a child is traced by ``torch.fx`` and gets a forward in which those are part of the norm's call:
    ConvModules and residual blocks of OpenMMLab, torchvision and timm, ``nn.Sequential``, and any other module whose
    forward is a fixed graph. Parameters, buffers and their names stay as they are, and so do the results, to rounding;
    modules that are no longer called keep their place. :func:`unfuse` goes back.

    Args:
        model: Any model. Not one of ``torch.jit`` or ``torch.compile``, which comes after.

    Returns:
        FusionReport: Which norms do what, and why others do not.
    """
    report = FusionReport()
    for path, module in list(model.named_modules()):
        names = {name: _join(path, name) for name, child in module._modules.items() if isinstance(child, LearnedNorm)}
        if not names or isinstance(module, _Fused):
            continue
        inside = {name for name in names if has_act(module._modules[name])}
        for name in inside:
            _fuse_inside(module._modules[name], names[name], report)
        _fuse_module(module, {name: full for name, full in names.items() if name not in inside}, report)
    if isinstance(model, LearnedNorm):
        report.unfused[''] = 'it is the model'
    return report


def unfuse(model: nn.Module) -> nn.Module:
    """Undo :func:`fuse`, in place.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, _Fused):
            module.__class__ = module._recipe.base  # type: ignore[assignment]
        elif isinstance(module, LearnedNorm) and getattr(module, 'is_fused', False):
            setattr(module, 'is_fused', False)  # noqa: B010  nn.Module says that all attributes are tensors
    return model


def _join(path: str, name: str) -> str:
    return f'{path}.{name}' if path else name


def _fuse_inside(layer: Any, name: str, report: FusionReport) -> None:
    """A norm with an activation inside."""
    drop, act = layer._modules['drop'], layer._modules['act']
    activation = activation_of(act)
    if layer.is_fused:
        return
    if isinstance(act, nn.Identity):
        report.unfused[name] = 'nothing follows it in its module'
    elif activation is None or not isinstance(drop, nn.Identity):
        what = type(act if activation is None else drop).__name__
        report.unfused[name] = f'{what} follows it, which cannot be part of its pass'
    else:
        layer.is_fused = True
        report.fused[name] = activation.name


def _fuse_module(module: nn.Module, names: dict[str, str], report: FusionReport) -> None:
    if not names:
        return
    if type(module).forward in (nn.ModuleList.forward, nn.ModuleDict.forward, nn.Module.forward):
        report.unfused.update(dict.fromkeys(names.values(), f'{type(module).__name__} has no forward'))
        return
    if 'forward' in vars(module):
        report.unfused.update(dict.fromkeys(names.values(), f'the forward of its {type(module).__name__} was replaced'))
        return
    try:
        graph, checkpoints = trace_with_checkpoints(module)
    except NotTraceable as error:
        reason = f'the forward of its {type(module).__name__} cannot be traced: {error}'
        report.unfused.update(dict.fromkeys(names.values(), reason))
        return
    found = absorb(graph, module)
    for name, full in names.items():
        if name in found:
            report.fused[full] = found[name]
        else:
            report.unfused[full] = f'nothing that could be part of its pass follows it in its {type(module).__name__}'
    if found:
        code = graph.python_code('self')
        used = {name: value for name, value in code.globals.items() if not isinstance(value, ModuleType)}
        inputs = sum(node.op == 'placeholder' for node in graph.nodes)
        module.__class__ = _Recipe(type(module), code.src, used, inputs, checkpoints).make()


class _Fused:
    """Mixin before a module's class, whose forward it replaces."""

    _recipe: '_Recipe'
    _inputs: int
    _checkpoints: bool
    with_cp: bool
    _fused_forward: Callable

    def forward(self, *args, **kwargs):
        if kwargs or len(args) != self._inputs:
            # The graph is that of the defaults.
            return super().forward(*args, **kwargs)  # type: ignore[misc]  # of the class that this stands before
        if self._checkpoints and self.with_cp and any(getattr(arg, 'requires_grad', False) for arg in args):
            return checkpoint(self._fused_forward, *args, use_reentrant=False)
        return self._fused_forward(*args)

    def __reduce_ex__(self, protocol):
        return _rebuild, (self._recipe,), self.__dict__


class _Recipe(NamedTuple):
    """What a fused module's class is made from; it can be pickled."""

    base: type[nn.Module]
    source: str
    names: dict[str, Any]
    inputs: int
    checkpoints: bool

    def __deepcopy__(self, memo: dict) -> '_Recipe':
        return self

    def make(self) -> type[nn.Module]:
        namespace = {'torch': torch, **self.names}
        exec(self.source, namespace)  # what torch.fx has written
        body = dict(
            __module__=self.base.__module__,
            __qualname__=self.base.__qualname__,
            __doc__=self.base.__doc__,
            _fused_forward=namespace['forward'],
            _recipe=self,
            # By themselves: the compiler of 2.1 does not look into the recipe.
            _inputs=self.inputs,
            _checkpoints=self.checkpoints,
        )
        metaclass: Any = type(self.base)
        return metaclass(self.base.__name__, (_Fused, self.base), body)


def _rebuild(recipe: _Recipe) -> nn.Module:
    """For pickle: a module without its attributes, which come next."""
    cls = recipe.make()
    return cls.__new__(cls)
