"""From what a user names, a config or a checkpoint, to a network with training batches and its optimizer."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import load_checkpoint
from torch import nn
from torch.optim import Optimizer

from ...cli import checks
from ...cli.defaults import add_training_defaults
from ...cli.start import check_weights
from ...convert.configs import WRAPPER, with_torch_sync_bn
from ...errors import UsageError
from ...files import read_weights
from ...registry import means_ours
from ..costs import make_forward
from ..inputs import build_loader, build_model, config_in, read_config, title_of
from .diagnose import Diagnosis, diagnose
from .input_size import training_size
from .remedies import Remedies

_LOADER = 'train_dataloader'


@dataclass
class Patient:
    """A network as a run trains it.

    Attributes:
        cfg: Its config, with what ``mmnorm train`` adds.
        scope: The codebase it is written for.
        checkpoint: What its weights are from; None for a network that is new.
        done: Iterations of training that the checkpoint has behind it, as far as it says.
        title: What it is called.
    """

    cfg: Config
    scope: str
    checkpoint: str | None
    done: int | None
    title: str


def open_patient(args: argparse.Namespace) -> Patient:
    """Read the config, and look into the checkpoint.

    Args:
        args: ``source``, ``checkpoint`` and ``config``, and what :func:`mmnorm.cli.launch.load_config` takes.

    Raises:
        UsageError: If there is something wrong with them.
    """
    source, checkpoint = args.source, args.checkpoint
    if Path(source).is_dir():
        raise UsageError(f'{source} is a folder; expected a config, or a checkpoint (.pth) of a run')
    if Path(source).suffix in ('.pth', '.pt'):
        if checkpoint is not None:
            raise UsageError(f'two checkpoints, {source} and {checkpoint}; expected CONFIG CHECKPOINT or CHECKPOINT')
        checkpoint, source = source, args.config
    elif args.config is not None:
        raise UsageError(f'--config is for a checkpoint alone; {source} is a config')
    rest: Mapping = {}
    if checkpoint is not None:
        _, rest = read_weights(checkpoint, args.trust_checkpoint)
    text = None if source is not None else config_in(str(checkpoint), rest, args.trust_checkpoint)
    options = argparse.Namespace(**{**vars(args), 'config': source})
    cfg, scope = read_config(options, str(checkpoint), text)
    if not cfg.get('model'):
        raise UsageError(f'{source} has no model')
    if text is None:
        # That of a run says itself what it was trained with.
        add_training_defaults(cfg, args.with_, args.without)
    cfg.model = with_torch_sync_bn(cfg.model)
    if checkpoint is None:
        return Patient(cfg, scope, None, 0, str(source))
    check_weights(cfg.model, checkpoint, 'the command line', trust=args.trust_checkpoint)
    meta = rest.get('meta')
    done = meta.get('iter') if isinstance(meta, Mapping) else None
    return Patient(cfg, scope, checkpoint, done if isinstance(done, int) else None, title_of(checkpoint))


def examine(patient: Patient, args: argparse.Namespace) -> Diagnosis:
    """Build the network, its optimizer and its data, and look at it.

    Args:
        patient: As :func:`open_patient` returns it.
        args: Its options, and ``shape``, ``batch``, ``batches`` and ``gpus``.
    """
    cfg, notes = patient.cfg, []
    torch.manual_seed(0)
    model = build_model(cfg)
    if patient.checkpoint is not None:
        load_checkpoint(model, patient.checkpoint, map_location='cpu')
    # As the loop of a Runner does: a network that was just built has not heard of norm_eval and frozen stages.
    model.to(get_device()).train()
    optimizer = _optimizer(cfg, model)
    if optimizer is None:
        notes.append('decay and rates: the config has no single optimizer')
    loader, reason = _loader(cfg, args)
    batches: Iterable
    forward: Callable | None
    if loader is not None:
        batches, forward = loader, None
        notes.append(f'on up to {args.batches} training batches of {loader.batch_size or "several"} images')
    else:
        batches, forward, size = _random_batches(patient, model, args)
        notes += [f'{reason}: on random images, {size}', 'running statistics: random images say nothing of them']
    wrapped = means_ours(cfg.model.get('type'), MODELS, WRAPPER)
    try:
        diagnosis = diagnose(
            model,
            batches,
            optimizer,
            forward=forward,
            max_batches=args.batches,
            done=patient.done,
            iterations=_iterations(cfg, loader),
            gpus=args.gpus,
            norm_eval=any(means_ours(hook.get('type'), HOOKS, 'NormEvalHook') for hook in _hooks(cfg)),
            from_data=loader is not None,
            title=patient.title,
            remedies=Remedies(cfg, args.source),
            will_load=_will_load(cfg) if patient.checkpoint is None else (),
            scope=cfg.model.get('norm_scope') if wrapped else None,
        )
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        if loader is not None:
            raise
        raise UsageError(f'{args.source} does not run on {size}: {error}. Give another --shape or --batch.') from error
    diagnosis.notes[:0] = notes
    return diagnosis


def _loader(cfg: Config, args: argparse.Namespace) -> tuple[Any, str]:
    """The training data; None, and why, where there are none."""
    if args.shape is not None:
        return None, '--shape'
    if cfg.get(_LOADER) is None:
        return None, 'the config has no train_dataloader'
    try:
        checks.check_data(cfg, (_LOADER,))
    except UsageError as error:
        return None, str(error).partition('. ')[0]
    settings = deepcopy(cfg[_LOADER])
    # A few batches, not worth starting workers for.
    settings.update(num_workers=0, persistent_workers=False)
    if args.batch is not None:
        settings.update(batch_size=args.batch)
    return build_loader(settings, _LOADER), ''


def _random_batches(patient: Patient, model: nn.Module, args: argparse.Namespace) -> tuple[Iterator, Callable, str]:
    """Images without data, how a network runs on them, and what they are in words."""
    batch = args.batch or (patient.cfg.get(_LOADER) or {}).get('batch_size') or 2
    height, width = training_size(patient.cfg, patient.scope) if args.shape is None else (args.shape * 2)[:2]
    x = torch.randn(batch, 3, height, width, device=get_device())
    forward = make_forward(model, patient.scope, x)
    return iter([x]), lambda model, batch: forward(), f'{batch} of {height}x{width}'


def _optimizer(cfg: Config, model: nn.Module) -> Optimizer | None:
    """That of training, with its groups; mixed precision and the like are left out."""
    wrapper = cfg.get('optim_wrapper') or {}
    if not isinstance(wrapper, Mapping) or 'optimizer' not in wrapper:
        return None
    kept = {key: deepcopy(wrapper[key]) for key in ('optimizer', 'constructor', 'paramwise_cfg') if wrapper.get(key)}
    try:
        return build_optim_wrapper(model, Config(dict(type='OptimWrapper', **kept))._cfg_dict).optimizer
    except (ValueError, KeyError) as error:
        raise UsageError(f'optim_wrapper: {error}') from None


def _iterations(cfg: Config, loader: Any) -> int | None:
    train = cfg.get('train_cfg') or {}
    if train.get('max_iters'):
        return train['max_iters']
    epochs = train.get('max_epochs')
    return epochs * len(loader) if epochs and loader is not None else None


def _hooks(cfg: Config) -> list[Mapping]:
    return [hook for hook in cfg.get('custom_hooks') or () if isinstance(hook, Mapping)]


def _will_load(cfg: Config) -> list[str]:
    """Prefixes of what a run loads before it begins."""
    if cfg.get('load_from'):
        return ['']
    prefixes = [key.removeprefix('model.').removesuffix('init_cfg') for key, _ in checks.pretrained_settings(cfg)]
    return prefixes + (['backbone.'] if cfg.model.get('pretrained') else [])


def run_config(patient: Patient, work_dir: str) -> Config:
    """The config of a Runner that tests the network, for :func:`mmnorm.experiments.statistics.compare_statistics`.

    Args:
        patient: As :func:`open_patient` returns it.
        work_dir: Where its log goes.

    Raises:
        UsageError: If there is nothing to test with.
    """
    cfg = deepcopy(patient.cfg)
    cfg.work_dir = work_dir
    for name in ('dataloader', 'evaluator', 'cfg'):
        if cfg.get(f'test_{name}') is None and cfg.get(f'val_{name}') is not None:
            cfg[f'test_{name}'] = cfg[f'val_{name}']
    missing = [name for name in (_LOADER, 'test_dataloader', 'test_evaluator') if cfg.get(name) is None]
    if missing:
        raise UsageError(f'--evaluate: the config has no {", ".join(missing)}')
    checks.check_data(cfg, (_LOADER, 'test_dataloader'))
    checks.check_evaluator(cfg, ('test_evaluator',))
    return cfg
