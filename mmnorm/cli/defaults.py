"""What training adds to a run with learned norms; the dumped config has it. All of it is listed here."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio.backends.registry_utils import backends
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS

from ..convert.configs import WRAPPER
from ..convert.custom_imports import import_mmnorm
from ..engine.atomic_files import AtomicBackend
from ..errors import UsageError
from ..layers.base import LearnedNorm
from ..registry import NAMES, SCOPE, means_ours, name_in_config


def _norm_eval(cfg: Config) -> None:
    """NormEvalHook: norm_eval=True of a backbone reaches the learned norms"""
    add_hook(cfg, 'NormEvalHook')


def _exact_resume(cfg: Config) -> None:
    """ExactResumeHook: a resumed run computes what the uninterrupted one computes"""
    add_hook(cfg, 'ExactResumeHook')


def _norm_params(cfg: Config) -> None:
    """LearnedNormOptimWrapperConstructor: norm_decay_mult and the like reach the learned norms"""
    optim_wrapper = cfg.get('optim_wrapper')
    single = isinstance(optim_wrapper, Mapping) and 'optimizer' in optim_wrapper
    if single and _name(optim_wrapper.get('constructor')) in (None, 'DefaultOptimWrapperConstructor'):
        name = 'LearnedNormOptimWrapperConstructor'
        optim_wrapper.constructor = name_in_config(OPTIM_WRAPPER_CONSTRUCTORS, name)


def _atomic_checkpoints(cfg: Config) -> None:
    """File backend 'atomic': a checkpoint is there as a whole, or not at all"""
    checkpoint: Any = (cfg.get('default_hooks') or {}).get('checkpoint')
    saves = isinstance(checkpoint, Mapping) and _name(checkpoint.get('type')) == 'CheckpointHook'
    if saves:
        is_local = not checkpoint.get('file_client_args') and '://' not in (checkpoint.get('out_dir') or '')
        if is_local and not checkpoint.get('backend_args'):
            is_ours = backends.get('atomic') is AtomicBackend
            checkpoint.backend_args = dict(backend='atomic' if is_ours else f'{SCOPE}.atomic')


DEFAULTS: dict[str, Callable[[Config], None]] = {
    'norm-eval': _norm_eval,
    'exact-resume': _exact_resume,
    'norm-params': _norm_params,
    'atomic-checkpoints': _atomic_checkpoints,
}


def add_default_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which of :data:`DEFAULTS` a run has."""
    listed = '; '.join(f'{name} ({add.__doc__})' for name, add in DEFAULTS.items())
    parser.add_argument(
        '--without',
        nargs='+',
        default=[],
        metavar='DEFAULT',
        choices=DEFAULTS,
        help=f'of what a run with SN, EN, ILM or their like gets besides its config, leave these out: {listed}',
    )
    parser.add_argument(
        '--with',
        nargs='+',
        default=[],
        metavar='DEFAULT',
        choices=DEFAULTS,
        dest='with_',
        help='add these of them to a run without such norms, too, which otherwise stays as its config has it',
    )


def add_training_defaults(cfg: Config, with_: Sequence[str] = (), without: Sequence[str] = ()) -> None:
    """Let a run know the learned norms that its model has, resume exactly, and save whole checkpoints. Idempotent.

    Args:
        cfg: The config; changed in place. What it says itself about any of these stays. One without learned norms in
            its model stays as it is.
        with_: Names out of :data:`DEFAULTS` that it gets even then.
        without: Names of those that it does not get.

    Raises:
        UsageError: If a name is in both.
    """
    both = sorted(set(with_) & set(without))
    if both:
        raise UsageError(f'--with and --without both name {", ".join(both)}')
    wanted = DEFAULTS if has_learned_norms(cfg) else with_
    chosen = [name for name in DEFAULTS if name in wanted and name not in without]
    if chosen:
        import_mmnorm(cfg)
    for name in chosen:
        DEFAULTS[name](cfg)


def has_learned_norms(cfg: Config) -> bool:
    """Whether the model of a config is built with learned norms, as far as the config says."""
    return any(_is_learned(kind) for kind in _types(cfg.get('model')))


def _types(node: Any) -> Iterator[Any]:
    """Whatever is called ``type`` in a config."""
    if isinstance(node, dict):
        # dict.items, as the types in a config of the new style are imported once they are looked at.
        for key, value in dict.items(node):
            if key == 'type':
                yield value
            yield from _types(value)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _types(child)


def _is_learned(kind: Any) -> bool:
    if isinstance(kind, str):
        if means_ours(kind, MODELS, WRAPPER):
            return True
        found = MODELS.children[SCOPE].module_dict.get(kind.removeprefix(f'{SCOPE}.'))
        if kind.startswith(f'{SCOPE}.'):
            return _is_layer(found)
        return _is_layer(found) and MODELS.module_dict.get(kind) is found
    # A class, or what stands for one in a config of the new style that has not been imported yet.
    return _is_layer(kind) or str(kind).rpartition('.')[2] in {layer.__name__ for layer in NAMES.values()}


def _is_layer(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, LearnedNorm)


def add_hook(cfg: Config, name: str) -> None:
    """Let a config have one of this project's hooks, unless it has."""
    hooks = list(cfg.get('custom_hooks') or [])
    present = {_name(hook.get('type')) if isinstance(hook, Mapping) else type(hook).__name__ for hook in hooks}
    if not any(means_ours(kind, HOOKS, name) for kind in present):
        cfg.custom_hooks = [*hooks, dict(type=name_in_config(HOOKS, name))]


def _name(kind: Any) -> str | None:
    """Name of a class that a config gives by name or as the class itself."""
    return kind if kind is None or isinstance(kind, str) else kind.__name__
