"""What is said once of a norm, and the names that configs use.

``@register('SN')`` makes a class known to everything here: configs, conversion, checkpoints, hooks, figures and costs
look norms up in :data:`NORMS` and ask the class. Names are taken politely: what somebody else has registered under one
stays. So everything is also registered in a scope of our own, ``mmnorm``, where a config finds it in any case:
``type='mmnorm.EN'``.
"""

import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .layers.base import LearnedNorm

try:
    from mmengine.registry import MODELS as NORM_LAYERS
except ImportError:
    try:
        # OpenMMLab 1.x kept the norm layers in a registry of their own.
        from mmcv.cnn import NORM_LAYERS
    except ImportError:
        NORM_LAYERS = None

SCOPE = 'mmnorm'
# Dimensions of the input of a norm that is called 1d, 2d or 3d.
INPUT_NDIMS = {1: (2, 3), 2: (4,), 3: (5,)}

# What can be looked at of a norm: see LearnedNorm.learns.
LEARNS = ('weights', 'ratios', 'affine')

# The class for any rank by its kind, e.g. 'SN'.
NORMS: dict[str, type['LearnedNorm']] = {}
# The classes that configs name: 'SN', which is 'SN2d', 'SN1d', 'SN2d', 'SN3d'.
NAMES: dict[str, type['LearnedNorm']] = {}

# Names that were somebody else's, and whose, until they are reported.
_taken: dict[str, str] = {}
# While the package is being imported they are collected.
_collecting = True

T = TypeVar('T')
N = TypeVar('N', bound='LearnedNorm')


def register(kind: str) -> Callable[[type[N]], type[N]]:
    """Decorate a learned norm: it becomes known under ``kind``, in configs too, for input of rank 1, 2 and 3.

    Beside ``class MyNorm`` its module gets ``MyNorm1d``, ``MyNorm2d`` and ``MyNorm3d``, unless they are written out
    (``class MyNorm2d(MyNorm, rank=2)``). A kind that is registered again means the new class.

    Args:
        kind: A short name, e.g. 'SN'; ``norm_cfg=dict(type='SN')`` means the 2d class.

    Returns:
        A decorator that returns the class.

    Raises:
        ValueError: If ``kind`` is not letters and underscores.
    """
    if not isinstance(kind, str) or not kind.replace('_', '').isalpha():
        raise ValueError(f"register: expected a short name of letters such as 'SN', got {kind!r}")

    def add(cls: type[N]) -> type[N]:
        metaclass: Callable[..., type[N]] = type(cls)
        cls.kind = kind
        NORMS[kind] = cls
        for rank in INPUT_NDIMS:
            name = f'{cls.__name__}{rank}d'
            body = dict(__module__=cls.__module__, __qualname__=name, __doc__=f'{cls.__name__} for rank {rank}.')
            # Where pickle looks for it.
            setattr(sys.modules[cls.__module__], name, metaclass(name, (cls,), body, rank=rank))
        return cls

    return add


def add_layer(cls: type['LearnedNorm'], rank: int) -> None:
    """Give the class of a registered norm for one rank its names; :meth:`LearnedNorm.__init_subclass__` calls it."""
    kind = cls.kind
    for name in (f'{kind}{rank}d', *([kind] if rank == 2 else ())):
        NAMES[name] = cls
        if NORM_LAYERS is not None:
            register_in(NORM_LAYERS, name)(cls)


def kinds_in_words(*learns: str) -> str:
    """The kinds of norms that learn these things, or all: 'EN, ILM or SN', for messages."""
    *others, last = [kind for kind, cls in NORMS.items() if not learns or cls.learns in learns]
    return f'{", ".join(others)} or {last}' if others else last


def register_in(registry: Any, name: str | None = None) -> Callable[[T], T]:
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


def is_free(name: str, present: Any, module: Any) -> bool:
    """Whether ``module`` may have a name that means ``present``, or nothing (None); if not, that will be reported.

    A module that is loaded again has another class of the same path, which takes the place of the first.
    """
    if present is None or _path(present) == _path(module):
        return True
    _taken[name] = _path(present)
    return False


def name_in_config(registry: Any, name: str) -> str:
    """``name`` where it means ours in ``registry``, else ``mmnorm.name``, which always does."""
    ours = _scope_in(registry).module_dict[name]
    return name if registry.module_dict.get(name) is ours else f'{SCOPE}.{name}'


def means_ours(kind: Any, registry: Any, name: str) -> bool:
    """Whether ``kind``, the type that a config gives, means our ``name``."""
    return kind in (f'{SCOPE}.{name}', name_in_config(registry, name))


def finish_import() -> None:
    """The package is imported: report the names that were not taken, from now on at once."""
    global _collecting
    _collecting = False
    report_taken_names()


def report_taken_names() -> None:
    """Warn, once, about all names that were not taken since the last time."""
    if _collecting or not _taken:
        return
    owners = ', '.join(f'{name} ({path})' for name, path in sorted(_taken.items()))
    example = f'{SCOPE}.{min(_taken)}'
    _taken.clear()
    warnings.warn(
        f'mmnorm leaves names to those who have registered them before: {owners}. In a config they mean theirs; ours '
        f'are found in the scope {SCOPE}, e.g. type={example!r}.',
        stacklevel=2,
    )


def _scope_in(registry: Any) -> Any:
    """Our scope below the root of ``registry``, made if it is not there yet."""
    root = registry
    while root.parent is not None:
        root = root.parent
    if SCOPE not in root.children:
        type(root)(f'{root.name} of {SCOPE}', parent=root, scope=SCOPE)
    return root.children[SCOPE]


def _path(module: Any) -> str:
    """Where a class or function is defined."""
    return f'{module.__module__}.{getattr(module, "__qualname__", type(module).__qualname__)}'
