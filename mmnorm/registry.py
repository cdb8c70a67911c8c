"""The names that configs use, in the registries of the OpenMMLab that is installed, if any.

Names are taken politely: what somebody else has registered under one stays. So everything is also registered in a scope
of our own, ``mmnorm``, where a config finds it in any case: ``type='mmnorm.EN'``.
"""

import warnings
from collections.abc import Callable

from . import layers

try:
    from mmengine.registry import MODELS as NORM_LAYERS
except ImportError:
    try:
        # OpenMMLab 1.x kept the norm layers in a registry of their own.
        from mmcv.cnn import NORM_LAYERS
    except ImportError:
        NORM_LAYERS = None

NAMES = {
    'SN': layers.SwitchableNorm2d,
    'SN1d': layers.SwitchableNorm1d,
    'SN2d': layers.SwitchableNorm2d,
    'SN3d': layers.SwitchableNorm3d,
    'EN': layers.ExemplarNorm2d,
    'EN1d': layers.ExemplarNorm1d,
    'EN2d': layers.ExemplarNorm2d,
    'EN3d': layers.ExemplarNorm3d,
    'ILM': layers.InstanceMetaNorm2d,
    'ILM1d': layers.InstanceMetaNorm1d,
    'ILM2d': layers.InstanceMetaNorm2d,
    'ILM3d': layers.InstanceMetaNorm3d,
}

SCOPE = 'mmnorm'

# Names that were somebody else's, and whose, until they are reported.
_taken: dict[str, str] = {}


def register(registry, name: str | None = None) -> Callable:
    """Decorate what a config may name: it is registered in ``registry``, unless the name is taken, and in our scope.

    Args:
        registry: A Registry of mmengine, or of mmcv 1.x.
        name: The name; that of the decorated class or function if None.

    Returns:
        A decorator that returns what it decorates.
    """

    def add(module):
        key = name or module.__name__
        _scope_in(registry).register_module(name=key, module=module, force=True)
        if is_free(key, registry.module_dict.get(key), module):
            registry.register_module(name=key, module=module, force=True)
        return module

    return add


def is_free(name: str, present, module) -> bool:
    """Whether ``module`` may have a name that means ``present``, or nothing (None); if not, that will be reported.

    A module that is loaded again has another class of the same path, which takes the place of the first.
    """
    if present is None or _path(present) == _path(module):
        return True
    _taken[name] = _path(present)
    return False


def name_in_config(registry, name: str) -> str:
    """``name`` where it means ours in ``registry``, else ``mmnorm.name``, which always does."""
    ours = _scope_in(registry).module_dict[name]
    return name if registry.module_dict.get(name) is ours else f'{SCOPE}.{name}'


def means_ours(kind, registry, name: str) -> bool:
    """Whether ``kind``, the type that a config gives, means our ``name``."""
    return kind in (f'{SCOPE}.{name}', name_in_config(registry, name))


def report_taken_names() -> None:
    """Warn, once, about all names that were not taken since the last time."""
    if not _taken:
        return
    owners = ', '.join(f'{name} ({path})' for name, path in sorted(_taken.items()))
    example = f'{SCOPE}.{min(_taken)}'
    _taken.clear()
    warnings.warn(
        f'mmnorm leaves names to those who have registered them before: {owners}. In a config they mean theirs; ours '
        f'are found in the scope {SCOPE}, e.g. type={example!r}.',
        stacklevel=2,
    )


def register_layers() -> None:
    """Register all layers in :data:`NORM_LAYERS`; without OpenMMLab there is nothing to do."""
    if NORM_LAYERS is None:
        return
    for name, layer in NAMES.items():
        register(NORM_LAYERS, name)(layer)


def _scope_in(registry):
    """Our scope below the root of ``registry``, made if it is not there yet."""
    root = registry
    while root.parent is not None:
        root = root.parent
    if SCOPE not in root.children:
        type(root)(f'{root.name} of {SCOPE}', parent=root, scope=SCOPE)
    return root.children[SCOPE]


def _path(module) -> str:
    """Where a class or function is defined."""
    return f'{module.__module__}.{getattr(module, "__qualname__", type(module).__qualname__)}'
