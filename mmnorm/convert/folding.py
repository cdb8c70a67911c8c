"""Norms that are the same for every input, put into the convolutions before them: :func:`fold`."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..layers.base import LearnedNorm
from . import sources
from .fusion import unfuse
from .modules import check_unwrapped, has_hooks, renew_averages
from .norm_act import has_act
from .report import Conversion, ConversionReport, LeftAlone
from .selection import Site, find_sites, find_ties
from .tracing import Calls

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Of nn.Linear the channels of the output are in dimension 1, where norms look for them, if it has no positions.
_RANKS: dict[type[nn.Module], int] = {
    **{nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3, nn.Linear: 1},
    **{cls: rank for rank, cls in enumerate(_TRANSPOSED, 1)},
}
CONVOLUTIONS = tuple(_RANKS)
# Whose forward is linear in the weight. Those of mmcv and timm pad in another way, or mind an empty input.
_LINEAR_MODULES = ('torch.nn.modules.', 'mmcv.cnn.bricks.wrappers')
_LINEAR_CLASSES = ('Conv2dAdaptivePadding', 'Conv2dSame')
_ACTIVATIONS = {
    'relu': lambda layer: nn.ReLU(),
    'leaky_relu': lambda layer: nn.LeakyReLU(layer.negative_slope),
    'silu': lambda layer: nn.SiLU(),
    'gelu': lambda layer: nn.GELU(),
}


@torch.no_grad()
def fold(model: nn.Module) -> ConversionReport:
    """Put norms into the convolutions before them, in place, where eval mode has one scale and shift for all inputs.

    Those are the layers that BN's running statistics alone standardize: SN, SSN and EN with the pool ``('BN',)``; SN
    and SSN whose ratios, of means and of variances, are exactly one-hot on BN, as those of SSN are in the end; EN whose
    ratios do not depend on the sample (``fc2_weight`` is 0) and in which no other normalizer has both a ratio and a
    gamma; a norm of one's own for which :meth:`.LearnedNorm.why_not_fixed` is None.

    The convolution, transposed convolution or nn.Linear takes scale and shift into weight and bias; where the norm was
    stands its activation, if it has one, or nn.Identity. That is done only where it is certain that the convolution's
    output goes into the norm and nowhere else: the calls are followed with ``torch.fx``, through as much of the model
    as it can trace. nn.Linear is taken to have an output (N, C), and modules to be called by the forward of those that
    hold them.

    A model that was fused (:func:`mmnorm.fuse`) no longer is, and may be again, after this.

    The model computes the same, up to rounding, in eval mode; it is not for training any more. Weights are replaced,
    not changed: what holds the old ones keeps them.

    Args:
        model: Any module in eval mode.

    Returns:
        ``converted`` has what was folded, with the convolution in ``note``; ``left_alone`` the other norms and why.
        Both may be empty.

    Raises:
        ValueError: If the model is in training mode, or wrapped for distributed training.
        TypeError: If the model is no module.

    Example::

        >>> print(mmnorm.fold(model.eval()))
        1 norm layers replaced, 1 left alone
          SparseSwitchableNorm2d -> Identity: layer1.0.bn1 (same function, into layer1.0.conv1)
          SparseSwitchableNorm2d stays: layer1.0.bn2: BN is not the only normalizer that counts
    """
    check_unwrapped(model, 'fold')
    if model.training:
        raise ValueError('the model is in training mode, where its norms depend on the batch; call model.eval() first')
    unfuse(model)
    norms = find_sites(model)
    convolutions = {site.module: site for site in find_sites(model, lambda module: isinstance(module, CONVOLUTIONS))}
    ties = find_ties(model, [*norms, *convolutions.values()])
    reasons = {site.name: _why_not_fixed(site.module) or ties.get(id(site.module)) for site in norms}
    fixed = {site.module for site in norms if reasons[site.name] is None}
    calls = Calls(model, lambda module: module in fixed or module in convolutions)
    report = ConversionReport()
    plan: list[tuple[Site, Site, tuple[nn.Parameter, nn.Parameter]]] = []
    for site in norms:
        norm: Any = site.module
        before = reasons[site.name] or _before(site, calls)
        if not isinstance(before, str):
            before = _obstacle(convolutions[before], norm, calls, ties) or before
        if isinstance(before, str):
            report.left_alone.append(LeftAlone(site.name, type(norm).__name__, before))
        else:
            plan.append((site, convolutions[before], _folded(before, *norm.fixed_affine())))
    for site, convolution, parameters in plan:
        for name, parameter in zip(('weight', 'bias'), parameters, strict=True):
            convolution.module.register_parameter(name, parameter)
        rest = _rest(site.module)
        for parent, name in site.places:
            parent.register_module(name, rest)
        old, new = type(site.module).__name__, type(rest).__name__
        report.converted.append(Conversion(site.name, old, new, True, f'into {convolution.name}'))
    renew_averages(model)
    return report


def _why_not_fixed(norm: nn.Module) -> str | None:
    if not isinstance(norm, LearnedNorm):
        return 'is no learned norm'
    if norm.training:
        return 'is in training mode'
    if any(tensor.is_meta for tensor in sources.tensors_of(norm).values()):
        return 'is on the meta device, without values'
    return norm.why_not_fixed() or sources.obstacle(norm, named=False) or ('has hooks' if has_hooks(norm) else None)


def _before(site: Site, calls: Calls) -> nn.Module | str:
    """The convolution whose output is all that ever goes into the norm, and goes nowhere else; or why there is none."""
    norm = site.module
    if norm not in calls.of:
        return calls.why_unseen(norm, site.places[0][0])
    found: dict[nn.Module, None] = {}
    for node in calls.of[norm]:
        if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
            return 'is called with more than its input'
        source = node.args[0]
        module = calls.module.get(source)
        if not isinstance(module, CONVOLUTIONS):
            return f'its input is not the output of a convolution but of {_describe(source, module)}'
        found[module] = None
    if len(found) > 1:
        return 'stands after several convolutions'
    (convolution,) = found
    users = [user for node in calls.of[convolution] for user in node.users]
    if any(calls.module.get(user) is not norm for user in users):
        return 'the output of the convolution before it is used elsewhere too'
    return convolution


def _describe(source: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    return 'the module before' if source.op == 'placeholder' else getattr(source.target, '__name__', str(source.target))


def _obstacle(site: Site, norm: LearnedNorm, calls: Calls, ties: dict[int, str]) -> str | None:
    """Why the convolution can't take scale and shift of the norm; None if it can."""
    module: Any = site.module
    cls, definer = type(module), next(c for c in type(module).__mro__ if 'forward' in vars(c))
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    rank = next(rank for base, rank in _RANKS.items() if isinstance(module, base))
    reason = ties.get(id(module))
    if len(site.places) > 1:
        reason = 'stands at several places'
    elif module in calls.read or norm in calls.read:
        reason = 'is not the only one that uses its weights'
    elif set(module._parameters) != {'weight', 'bias'} or 'parametrizations' in module._modules:
        reason = 'has reparametrized or pruned weights; remove that first'
    elif has_hooks(module):
        reason = 'has hooks'
    elif 'forward' in vars(module):
        reason = 'has a forward that was replaced'
    elif not (definer.__module__.startswith(_LINEAR_MODULES) or definer.__name__ in _LINEAR_CLASSES):
        reason = f'is a {cls.__name__}, which has a forward of its own'
    elif outputs != norm.num_features or norm.rank not in (None, rank):
        reason = f'is a {cls.__name__} with {outputs} outputs; {type(norm).__name__} has {norm.num_features} channels'
    return f'{site.name}, which is before it, {reason}' if reason else None


def _folded(convolution: Any, scale: Tensor, shift: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution whose outputs are ``scale`` times its own, plus ``shift``."""
    weight, bias = convolution.weight, convolution.bias
    gain = scale.reshape(-1, *[1] * (weight.dim() - 1))
    wide = weight.to(scale.dtype)
    if isinstance(convolution, _TRANSPOSED):
        # (C_in, C_out / groups, ...): the inputs of one group come after those of another.
        by_group = wide.unflatten(0, (convolution.groups, -1))
        gain = scale.reshape(convolution.groups, 1, -1, *[1] * (weight.dim() - 2))
        wide = (by_group * gain).flatten(0, 1)
    else:
        wide = wide * gain
    if bias is not None:
        shift = shift + scale * bias.to(scale.dtype)
    new_weight, new_bias = (nn.Parameter(t.to(weight), requires_grad=weight.requires_grad) for t in (wide, shift))
    return new_weight, new_bias


def _rest(norm: Any) -> nn.Module:
    """What is left of a norm without scale and shift."""
    parts: dict[str, nn.Module] = {}
    if norm.activation is not None:
        parts['activation'] = _ACTIVATIONS[norm.activation](norm)
    if has_act(norm):
        parts.update({name: child for name, child in norm._modules.items() if child is not None})
    rest = nn.Sequential(OrderedDict(parts)) if len(parts) > 1 else next(iter(parts.values()), nn.Identity())
    return rest.eval()
