"""Configs whose model has a learned norm in place of every BatchNorm: what ``--norm`` of the tools writes.

The model of such a config keeps all its keys, so that whatever reads or overrides them still finds them; only its type
becomes ``NormConverted``, which builds the model as it was and converts what it finds in it::

    model = dict(type='NormConverted', model_type='EncoderDecoder', norm=dict(type='EN'), backbone=dict(...), ...)

Hence it does not matter where a norm comes from: a norm_cfg, a codebase's default, or hard-coded ``nn.BatchNorm2d``.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import UsageError
from ..layers.base import LearnedNorm
from ..layers.norm_eval import apply_norm_eval
from ..registry import NAMES, NORMS, means_ours, name_in_config, register_in
from .custom_imports import import_mmnorm
from .modules import convert_norm

try:
    from mmengine.registry import MODELS
except ImportError:
    MODELS = None

WRAPPER = 'NormConverted'
_OWN_KEYS = ('model_type', 'norm', 'norm_scope')


def parse_norm(text: str) -> dict:
    """The norm_cfg that a command line means.

    Args:
        text: ``EN``, ``EN(reduction=16)`` or ``dict(type='EN', reduction=16)``; values are Python literals.

    Raises:
        ValueError: If it is none of these, no learned norm, or has arguments that the layer refuses.
    """
    expected = f"expected {', '.join(NORMS)}, with arguments e.g. 'EN(reduction=16, init_ratios=(0.05, 0.15, 0.8))'"
    try:
        node = ast.parse(text, mode='eval').body
        keywords: list[ast.keyword] = []
        if isinstance(node, ast.Call) and not node.args:
            keywords, node = node.keywords, node.func
        if not isinstance(node, ast.Name):
            raise ValueError('it does not begin with a name')
        name, norm = node.id, {keyword.arg: ast.literal_eval(keyword.value) for keyword in keywords}
    except (SyntaxError, ValueError):
        raise ValueError(f'{text!r} is not understood: {expected}') from None
    if name != 'dict':
        norm = {'type': name, **norm}
    if norm.get('type') not in NORMS:
        raise ValueError(f'unknown norm {norm.get("type")!r}: {expected}')
    check_norm(norm)
    return norm


def check_norm(norm: Mapping) -> None:
    """Make a layer of ``norm`` for nothing, so that a wrong argument is known before a model is built.

    Raises:
        ValueError: If the layer refuses an argument.
    """
    if norm.get('type') not in NAMES:
        raise ValueError(f'unknown norm {norm.get("type")!r}: expected one of {", ".join(NAMES)}')
    arguments = {key: value for key, value in norm.items() if key not in ('type', 'requires_grad')}
    try:
        cls: Callable[..., LearnedNorm] = NAMES[norm['type']]
        cls(64, **arguments, device='meta')
    except (TypeError, ValueError) as error:
        raise ValueError(f'{norm["type"]} does not take {arguments}: {error}') from None


def set_norm(cfg, norm: str | Mapping, scope: Sequence[str] = ()) -> None:
    """Change ``cfg``, in place, so that its model is built with ``norm`` in place of every BatchNorm.

    Args:
        cfg: A mmengine Config with a ``model``. One that has been changed already gets the new norm and scope.
        norm: A norm_cfg of a learned norm, or a text as of ``--norm``: 'EN', 'EN(reduction=16)'.
        scope: Names of the sub-modules to limit it to, e.g. ('backbone', 'roi_head.bbox_head'); all if empty.

    Raises:
        ValueError: If there is no model, it has a key of those that this adds, or the norm, or an argument of it, is
            unknown.
    """
    if isinstance(norm, str):
        norm = parse_norm(norm)
    else:
        check_norm(norm)
    if not cfg.get('model'):
        raise ValueError(f'{cfg.filename} has no model to put {norm["type"]} into')
    # dict.items, as the types in a config of the new style are imported once they are looked at, and dumped by name
    # only if they were not.
    model = dict(dict.items(cfg.model))
    wrapped = means_ours(model['type'], MODELS, WRAPPER)
    model_type = model.pop('model_type') if wrapped else model['type']
    if wrapped:
        model = {key: value for key, value in model.items() if key not in _OWN_KEYS}
    clash = sorted(set(model).intersection(_OWN_KEYS))
    if clash:
        raise ValueError(f'the model of {cfg.filename} has keys that conversion needs for itself: {", ".join(clash)}')
    del model['type']
    own = {'model_type': model_type, 'norm': dict(norm)}
    if scope:
        own['norm_scope'] = list(scope)
    cfg.model = type(cfg.model)(type=name_in_config(MODELS, WRAPPER), **own, **model)
    import_mmnorm(cfg)


def build_converted(model_type: Any, norm: Mapping, norm_scope: Sequence[str] = (), **model) -> nn.Module:
    """Build a model and put a learned norm in place of every BatchNorm and SyncBatchNorm in it.

    Registered in MODELS as ``NormConverted``. What frozen stages had frozen when the model was made stays frozen,
    ``norm_eval`` holds for the new layers, and BatchNorms that are no longer as they were made hand over their weights.

    Args:
        model_type: The model's own ``type``.
        norm: A norm_cfg of a learned norm.
        norm_scope: Names of the sub-modules to limit it to; all if empty.
        **model: The rest of the model's config.

    Returns:
        The model itself, of the class that ``model_type`` names.

    Raises:
        UsageError: If ``norm_scope`` names no sub-module, or there is nothing to replace.
    """
    network = MODELS.build(with_torch_sync_bn(dict(type=model_type, **model)))
    _check_scope(network, norm_scope)
    fresh = set()

    def watch(name: str, module: nn.Module) -> bool:
        if _is_fresh(module):
            fresh.add(name)
        return True

    try:
        report = convert_norm(network, dict(norm), include=list(norm_scope) or None, predicate=watch)
    except ValueError as error:
        raise UsageError(
            f'{norm["type"]} cannot take the place of BatchNorm in {type(network).__name__}: {error}'
        ) from None
    for conversion in report:
        if conversion.name in fresh:
            # Gamma 1 and beta 0 say nothing; the layer starts as it does where a norm_cfg names it.
            network.get_submodule(conversion.name).reset_parameters()
    _start_averages(network)
    apply_norm_eval(network)
    _log(str(report))
    return network


def register_builder() -> None:
    """Register :func:`build_converted` in mmengine's MODELS; without mmengine there is nothing to do."""
    if MODELS is not None:
        register_in(MODELS, WRAPPER)(build_converted)


def _check_scope(network: nn.Module, scope: Sequence[str]) -> None:
    names = {name for name, _ in network.named_modules(remove_duplicate=False)}
    for name in scope:
        if name not in names:
            parent = name
            while parent not in names:
                parent = parent.rpartition('.')[0]
            children = ', '.join(child for child, _ in network.get_submodule(parent).named_children())
            where = f'{parent} of {type(network).__name__}' if parent else type(network).__name__
            raise UsageError(f'norm scope {name!r} is no sub-module of the model; {where} has {children or "none"}')


def _is_fresh(module: nn.Module) -> bool:
    """Whether a BatchNorm is as it was made."""
    starts = {'weight': 1, 'bias': 0, 'running_mean': 0, 'running_var': 1}
    tensors = [(start, getattr(module, name, None)) for name, start in starts.items()]
    return all(tensor is None or tensor.is_meta or bool((tensor == start).all()) for start, tensor in tensors)


def _start_averages(network: nn.Module) -> None:
    """Let moving averages inside a model (BYOL's target, MoCo's key encoder) start as the layers that they average.

    They were copies when the model was made; the new layers drew random numbers of their own.
    """
    from mmengine.model import BaseAveragedModel

    averages = [module for module in network.modules() if isinstance(module, BaseAveragedModel)]
    inside = {module for average in averages for module in average.modules()}
    sources = [module for module in network.modules() if isinstance(module, LearnedNorm) and module not in inside]
    for average in averages:
        norms = [module for module in average.modules() if isinstance(module, LearnedNorm)]
        # What is not averaged, a head's predictor, comes behind.
        for norm, source in zip(norms, sources):
            if repr(norm) == repr(source):
                norm.load_state_dict(source.state_dict())


def with_torch_sync_bn(node: Any) -> Any:
    """A config with mmcv's own SyncBN named as PyTorch's, as mmcv's can't even be made in a run of one process."""
    kind: Any = type(node)
    if isinstance(node, Mapping):
        changed = {key: with_torch_sync_bn(value) for key, value in node.items()}
        if changed.get('type') == 'MMSyncBN':
            changed['type'] = 'SyncBN'
            for key in ('group', 'stats_mode'):
                changed.pop(key, None)
        return kind(changed)
    if isinstance(node, list | tuple):
        return kind(with_torch_sync_bn(child) for child in node)
    return node


def _log(text: str) -> None:
    from mmengine.logging import print_log

    print_log(text, logger='current')
