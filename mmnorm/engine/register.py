"""What a config may name besides the layers: hooks, a sampler, the optimizer wrapper constructor, the file backend."""

import sys
from importlib import import_module
from typing import Any


def register_engine() -> None:
    """Let mmengine find them; without it there is nothing to do.

    Hooks and what they stand on in mmengine take seconds to import. They
    are imported once one is looked up, unless mmengine's own hooks are there already.
    """
    try:
        from mmengine.registry import DATA_SAMPLERS, HOOKS, OPTIM_WRAPPER_CONSTRUCTORS
    except ImportError:
        return
    import_module('.atomic_files', __package__)
    _import_at_look_up(HOOKS, f'{__package__}.hooks')
    _import_at_look_up(DATA_SAMPLERS, f'{__package__}.class_balanced_sampler')
    _import_at_look_up(OPTIM_WRAPPER_CONSTRUCTORS, f'{__package__}.optim_constructor')


def _import_at_look_up(registry: Any, location: str) -> None:
    locations = getattr(registry, '_locations', None)
    # A Registry imports its locations at the first look-up, and never again.
    is_waiting = not getattr(registry, '_imported', True) and 'mmengine.hooks' not in sys.modules
    if isinstance(locations, list) and is_waiting:
        if location not in locations:
            locations.append(location)
    else:
        import_module(location)
