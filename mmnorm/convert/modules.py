"""Other norms in place of those that a model has, and back: :func:`convert_norm` and :func:`revert_norm`."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..layers.base import LearnedNorm
from ..registry import NORMS
from . import sources
from .fusion import unfuse
from .report import Conversion, ConversionReport, LeftAlone
from .selection import Selection, Site, find_sites, find_ties
from .to_learned import LearnedSpec
from .to_plain import build_plain

_DISTRIBUTED = ('DistributedDataParallel', 'FullyShardedDataParallel')

Patterns = str | Iterable[str] | None
Types = str | type | Iterable[str | type] | None
Predicate = Callable[[str, nn.Module], bool] | None


def convert_norm(
    model: nn.Module,
    norm: str | dict,
    *,
    types: Types = None,
    include: Patterns = None,
    exclude: Patterns = None,
    predicate: Predicate = None,
    load_weights: bool = True,
) -> ConversionReport:
    """Replace norm layers of any model by SN, EN or ILM, in place, with their weights.

    The new layers have the device, type, training mode, eps, momentum, affine, track_running_stats and requires_grad of
    those they replace; where gamma and beta were frozen, the parameters that learn the ratios are frozen too, and a
    frozen BatchNorm's statistics stay fixed (``norm_eval``). A layer
    that stands at several places stays one layer. Either all selected layers are replaced or, on any error, none.

    An optimizer that was made before holds the parameters of the old layers: make it (and
    DistributedDataParallel) after the conversion.

    Args:
        model: Any module that has norm layers below it.
        norm: 'SN', 'EN' or 'ILM', or a norm_cfg such as ``dict(type='EN', init_ratios=(0.01, 0.01, 0.98))``. What it
            says goes before what the replaced layer says. Each layer gets the rank of the one it replaces;
            SyncBatchNorm and GroupNorm take input of any rank, and so do the 2d layers that replace them. 'EN1d' and
            the like replace only layers of that rank, and give it to the replacements of the two that take any.
        types: Which norms: classes, or any of 'BN', 'SyncBN', 'FrozenBN', 'GN', 'IN', 'LN', 'SN', 'EN', 'ILM', or 'all'
            for all but the last three. Default: BatchNorm of any rank and SyncBatchNorm.
        include: Shell patterns of module names (:mod:`fnmatch`; ``*`` also matches dots). A pattern selects the modules
            that it matches and all below them: 'backbone', 'backbone.layer[34]', '*.downsample'. Default: all.
        exclude: Patterns of modules to leave alone, likewise; they go before ``include``.
        predicate: Called with the name and the module of every layer that the rest selects; replaces where true.
        load_weights: Whether the new layers take over gamma, beta and running statistics, as described in
            docs/layers.md; otherwise they start as they were made.

    Returns:
        What was replaced, and which norms were left alone and why. It is empty where all that was asked for is in place
        already.

    Raises:
        ValueError: If no layer was selected or none can be replaced, a pattern matches no module, the norm or one of
            its options is unknown or out of range, the model itself is the norm, or it is wrapped for distributed
            training.
        TypeError: If the model is no module, or ``norm`` or ``types`` is of a wrong type.

    Example::

        >>> model = torchvision.models.resnet50(weights='DEFAULT')
        >>> print(mmnorm.convert_norm(model, dict(type='EN', init_ratios=(0.01, 0.01, 0.98))))
        53 norm layers replaced, 0 left alone
          BatchNorm2d -> ExemplarNorm2d: bn1, layer1.0.bn1, layer1.0.bn2 and 50 more
    """
    spec = LearnedSpec.parse(norm)
    selection = Selection(('BN', 'SyncBN') if types is None else types, include, exclude, predicate)

    report = _replace(model, selection, lambda site: spec.build(site, load_weights), spec)
    _stop_folding(model)
    return report


def revert_norm(
    model: nn.Module,
    *,
    types: Types = None,
    include: Patterns = None,
    exclude: Patterns = None,
    predicate: Predicate = None,
) -> ConversionReport:
    """Replace SN, EN and ILM layers of any model by the plain norms that come closest, in place, with their weights.

    * SN and EN with BN in the pool become BatchNorm (SyncBatchNorm where they sync or take any rank), those without
      it the normalizer with the largest ratio; with gamma (EN: the mean of its rows by their ratios), beta (EN: the sum
      of its rows) and the running statistics.
    * ILM becomes its base, with what zero key features predict in gamma and beta.

    A model that was fused (:func:`mmnorm.fuse`) no longer is.

    Right after :func:`convert_norm` this gives the original weights back, bit for bit (ILM: gamma within the rounding
    of ``gamma - 0.5``). Device, type, training mode and requires_grad are kept, as in :func:`convert_norm`; an
    optimizer that was made before holds the old parameters.

    Args:
        model: Any module that has learned norm layers below it.
        types: Which norms: classes, or any of 'SN', 'EN', 'ILM'. Default: all three.
        include: Patterns of module names, as in :func:`convert_norm`.
        exclude: Patterns of modules to leave alone, likewise.
        predicate: Called with the name and the module of every layer that the rest selects; replaces where true.

    Returns:
        What was replaced. ``exact`` says of each layer whether its function is kept, ``note`` what was dropped.

    Raises:
        ValueError: If no layer was selected or none can be replaced, a pattern matches no module, the model itself is
            the norm, or it is wrapped for distributed training.
        TypeError: If the model is no module or ``types`` is of a wrong type.
    """
    learned = tuple(NORMS)
    selection = Selection(learned if types is None else types, include, exclude, predicate, among=learned)
    return _replace(model, selection, build_plain)


def _replace(
    model: nn.Module,
    selection: Selection,
    build: Callable[[Site], tuple[nn.Module, bool, str]],
    spec: LearnedSpec | None = None,
) -> ConversionReport:
    """Build what replaces every selected layer; only when all are built, put them in place."""
    _check_model(model, selection)
    sites = find_sites(model)
    ties = find_ties(model, sites)
    report = ConversionReport()
    replacements: list[tuple[Site, nn.Module]] = []
    done = False
    reason: str | None
    for site in sites:
        old, type_name = site.module, type(site.module).__name__
        if spec is not None and sources.kind_of(old) == spec.kind:
            reason = f'is {spec.kind} already'
            done = done or selection.has_name(site)
        else:
            reason = (
                selection.why_not(site)
                or (spec is not None and spec.why_not(old))
                or ties.get(id(old))
                or sources.obstacle(old, selection.names_class(type(old)))
            )
        if reason:
            report.left_alone.append(LeftAlone(site.name, type_name, reason))
            continue
        try:
            # Whatever device a surrounding context asks for: layers are built where their predecessors are.
            with torch.device('cpu'):
                new, exact, note = build(site)
        except ValueError as error:
            raise ValueError(f'{site.name} ({type_name}) cannot be replaced, so nothing was: {error}') from error
        replacements.append((site, new))
        report.converted.append(Conversion(site.name, type_name, type(new).__name__, exact, note))
    if not replacements and not done:
        raise ValueError(f'there is no norm layer to replace. {_describe(report)}')
    _warn_about_hooks(site for site, _ in replacements)
    if spec is None:
        # Plain norms do nothing of what follows them.
        unfuse(model)
    for site, new in replacements:
        for parent, name in site.places:
            # Not setattr, which a model may override, and which refuses the names of containers.
            parent.register_module(name, new)
    renew_averages(model)
    return report


def renew_averages(model: nn.Module) -> None:
    """Let mmengine's averaged models average the parameters of the new layers; they keep a table of all parameters."""
    mmengine_model = sys.modules.get('mmengine.model')
    if mmengine_model is None:
        return
    for average in model.modules():
        if isinstance(average, mmengine_model.BaseAveragedModel):
            parameters = average.module.named_parameters
            average.avg_parameters = average.module.state_dict() if average.update_buffers else dict(parameters())


def _stop_folding(model: nn.Module) -> None:
    """Keep ConvModules of mmcv from computing convolution and eval-mode norm as one, as they can for BatchNorm."""
    for module in model.modules():
        switch = getattr(module, 'turn_on_efficient_conv_bn_eval', None)
        if switch is not None and isinstance(module.norm, LearnedNorm):
            switch(False)


def _check_model(model: nn.Module, selection: Selection) -> None:
    check_unwrapped(model, 'convert')
    if selection.has_type(model):
        raise ValueError(
            f'the model itself is the norm, {type(model).__name__}, so there is nothing to put another into. Make the '
            f'new layer instead and load the weights: mmnorm.ExemplarNorm2d(num_features).load_state_dict(...)'
        )
    selection.check_patterns(model)


def check_unwrapped(model: nn.Module, doing: str) -> None:
    """Raise a TypeError for what is no module, and a ValueError for one that is wrapped for distributed training.

    Args:
        model: What the user gave.
        doing: What is to be done to it, for the message.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f'expected a torch.nn.Module, got {type(model).__name__}')
    for name, module in model.named_modules():
        wrapper = next((c.__name__ for c in type(module).__mro__ if c.__name__ in _DISTRIBUTED), None)
        if wrapper is not None:
            raise ValueError(
                f'{name or "the model"} is wrapped in {wrapper}, which knows the parameters of the old layers; '
                f'{doing} first and wrap afterwards'
            )


def _describe(report: ConversionReport) -> str:
    """What the model has instead of layers to replace."""
    if not report.left_alone:
        return 'The model has no norm layers (a scripted or exported model has to be converted before that)'
    types = Counter(entry.type for entry in report.left_alone)
    found = ', '.join(f'{count} {name}' for name, count in types.items())
    return f'The model has {found}:\n' + '\n'.join(str(report).splitlines()[1:])


def _warn_about_hooks(sites: Iterable[Site]) -> None:
    names = [site.name for site in sites if has_hooks(site.module)]
    if names:
        warnings.warn(
            f'hooks of the replaced layers are lost; register them again on: {", ".join(names)}', stacklevel=4
        )


def has_hooks(module: nn.Module) -> bool:
    """Whether others watch or change what the module, or a parameter of it, does."""
    found: list[dict | None]
    found = [value for name, value in vars(module).items() if name.endswith('_hooks') and isinstance(value, dict)]
    for parameter in module._parameters.values():
        if parameter is not None:
            found += [parameter._backward_hooks, getattr(parameter, '_post_accumulate_grad_hooks', None)]
    # Those that the layers here register for themselves come back by themselves.
    return any(not _is_ours(hook) for hooks in found for hook in (hooks or {}).values())


def _is_ours(hook) -> bool:
    return getattr(getattr(hook, 'hook', hook), '__module__', '').startswith(f'{__package__.partition(".")[0]}.')
