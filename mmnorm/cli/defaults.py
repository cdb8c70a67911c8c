"""What every run of tools/train.py has besides its config; it is in the config that is dumped."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.fileio.backends.registry_utils import backends
from mmengine.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS

from ..convert.custom_imports import import_mmnorm
from ..engine.atomic_files import AtomicBackend
from ..registry import SCOPE, means_ours, name_in_config

_HOOKS = ('NormEvalHook', 'ExactResumeHook')
_DEFAULT_CONSTRUCTORS = (None, 'DefaultOptimWrapperConstructor')


def add_training_defaults(cfg: Config) -> None:
    """Let a run know the learned norms, resume exactly, and save whole checkpoints. Idempotent.

    Args:
        cfg: The config; changed in place. What it says itself about any of these stays.
    """
    import_mmnorm(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    present = {_name(hook.get('type')) if isinstance(hook, Mapping) else type(hook).__name__ for hook in hooks}
    missing = [name for name in _HOOKS if not any(means_ours(kind, HOOKS, name) for kind in present)]
    cfg.custom_hooks = hooks + [dict(type=name_in_config(HOOKS, name)) for name in missing]

    optim_wrapper = cfg.get('optim_wrapper')
    single = isinstance(optim_wrapper, Mapping) and 'optimizer' in optim_wrapper
    if single and _name(optim_wrapper.get('constructor')) in _DEFAULT_CONSTRUCTORS:
        name = 'LearnedNormOptimWrapperConstructor'
        optim_wrapper.constructor = name_in_config(OPTIM_WRAPPER_CONSTRUCTORS, name)

    checkpoint: Any = (cfg.get('default_hooks') or {}).get('checkpoint')
    saves = isinstance(checkpoint, Mapping) and _name(checkpoint.get('type')) == 'CheckpointHook'
    if saves:
        is_local = not checkpoint.get('file_client_args') and '://' not in (checkpoint.get('out_dir') or '')
        if is_local and not checkpoint.get('backend_args'):
            is_ours = backends.get('atomic') is AtomicBackend
            checkpoint.backend_args = dict(backend='atomic' if is_ours else f'{SCOPE}.atomic')


def _name(kind) -> str | None:
    """Name of a class that a config gives by name or as the class itself."""
    return kind if kind is None or isinstance(kind, str) else kind.__name__
