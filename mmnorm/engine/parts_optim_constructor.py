"""The optimizer wrapper constructor of models whose parts learn by turns, each with an optimizer of its own."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..errors import UsageError
from ..registry import register_in
from .optim_constructor import LearnedNormOptimWrapperConstructor


@register_in(OPTIM_WRAPPER_CONSTRUCTORS)
class PartsOptimWrapperConstructor:
    """An optimizer wrapper for each part of a model, by :class:`.LearnedNormOptimWrapperConstructor`.

    The model's ``train_step`` gets an ``OptimWrapperDict`` and takes each wrapper by the name of its part.

    What stands beside ``parts`` is for all of them, and a part's own options take precedence, key by key. That holds
    within ``optimizer`` too, unless the part names an optimizer type: then nothing of the common one is left.

    Args:
        optim_wrapper_cfg: ``parts``, options by the name of a submodule, e.g. 'generator'; beside it, optional,
            whatever an optimizer wrapper takes: ``type``, ``optimizer``, ``clip_grad``, ``accumulative_counts``.
        paramwise_cfg: Options by parameter, for all parts; a part's own ``paramwise_cfg`` replaces them.

    Raises:
        UsageError: If there are no parts, or a part has no optimizer, is no part of the model, or shares weights with
            another.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='PartsOptimWrapperConstructor',
        ...     optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.999)),
        ...     parts=dict(generator=dict(), discriminator=dict(optimizer=dict(lr=1e-4))))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        common = dict(optim_wrapper_cfg)
        parts = common.pop('parts', None)
        if not isinstance(parts, Mapping) or not parts:
            raise UsageError(
                f'optim_wrapper.parts: expected options of an optimizer wrapper by the name of each part of the model, '
                f'e.g. dict(generator=dict(), discriminator=dict()), got {parts!r}'
            )
        common['paramwise_cfg'] = paramwise_cfg
        self.parts = {name: _merged(name, common, options) for name, options in parts.items()}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """The wrappers of the parts of a model, or of what DistributedDataParallel has wrapped."""
        model = getattr(model, 'module', model)
        wrappers: dict[str, OptimWrapper] = {}
        owners: dict[int, str] = {}
        for name, options in self.parts.items():
            part = _part(model, name)
            for weight in part.parameters():
                if owners.setdefault(id(weight), name) != name:
                    raise UsageError(
                        f'optim_wrapper.parts: {owners[id(weight)]} and {name} have weights in common, which both '
                        f'optimizers would change; name parts that lie beside each other'
                    )
            wrapper_cfg = {key: value for key, value in options.items() if key != 'paramwise_cfg'}
            wrappers[name] = LearnedNormOptimWrapperConstructor(wrapper_cfg, options['paramwise_cfg'])(part)
        return OptimWrapperDict(**wrappers)


def _merged(name: str, common: Mapping, options: Any) -> dict:
    """The options of a part, completed by the common ones."""
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise UsageError(f'optim_wrapper.parts.{name}: expected a dict of options, got {options!r}')
    merged = {**common, **options}
    own = options.get('optimizer')
    if isinstance(own, Mapping) and 'type' not in own:
        merged['optimizer'] = {**(common.get('optimizer') or {}), **own}
    if not isinstance(merged.get('optimizer'), Mapping) or 'type' not in merged['optimizer']:
        raise UsageError(
            f'optim_wrapper.parts.{name} has no optimizer: give it one, optimizer=dict(type=..., lr=...), or all parts '
            f'one, beside parts'
        )
    return merged


def _part(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        present = ', '.join(child for child, _ in model.named_children())
        raise UsageError(
            f'optim_wrapper.parts: {type(model).__name__} has no part {name!r}; its parts are {present or "none"}'
        ) from None
