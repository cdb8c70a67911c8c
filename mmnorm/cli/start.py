"""A look into a checkpoint before anything is built or changed: is it whole, of this model, enough to resume from?"""

import copy
import os.path as osp
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from ..errors import UsageError
from ..files import read_checkpoint
from .checks import is_local, pretrained_settings


def check_weights(model: Mapping, path: str, source: str, resume: bool = False, trust: bool = False) -> Mapping | None:
    """Check that a checkpoint can be read, and is one of the model.

    mmengine loads what fits and passes over the rest, so that a checkpoint of another model would load nothing and the
    run start from scratch, unnoticed.

    Args:
        model: The model's config.
        path: The checkpoint; names with a scheme (https://, torchvision://) are left to mmengine.
        source: Where it was given, e.g. 'load_from'.
        resume: Whether a run is to go on from it, which takes more than weights.
        trust: Whether it may run code; see :func:`mmnorm.files.read_checkpoint`.

    Returns:
        The checkpoint, its tensors left in the file; None where it is not looked into.

    Raises:
        UsageError: If it can't be read as data, holds no weights, has none in common with the model, or can't be
            resumed from.
    """
    if not is_local(path):
        return None
    where = f'{osp.abspath(path)} (from {source})'
    checkpoint = read_checkpoint(path, source, trust, mmap=True)
    weights = checkpoint.get('state_dict', checkpoint)
    weights = weights if isinstance(weights, Mapping) else {}
    # As mmengine strips it.
    shapes = {
        re.sub(r'^module\.', '', key): tuple(value.shape)
        for key, value in weights.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not shapes:
        raise UsageError(
            f'no weights in {where}: expected a state_dict, or a dict that has one under the key "state_dict"; '
            f'it has {_some(checkpoint)}.'
        )
    own = _shapes_of(model)
    if own and not own.keys() & shapes.keys():
        raise UsageError(
            f'{where} is of another model: none of its {len(shapes)} weights has a name that this model knows. '
            f'It has {_some(shapes)}; the model has {_some(own)}.{_hint(own, shapes, path)}'
        )
    if resume:
        _check_resumable(checkpoint, own, shapes, where)
    return checkpoint


def check_prefixes(cfg: Mapping, trust: bool = False) -> None:
    """Check that ``init_cfg=dict(type='Pretrained', ...)`` looks for weights under names that its checkpoint has.

    A checkpoint of a whole model has ``backbone.`` before the names of the backbone's weights. Without
    ``prefix='backbone.'`` mmengine finds none of them, says so in the log and goes on.

    Args:
        cfg: The config of the run.
        trust: Whether the checkpoints may run code; see :func:`mmnorm.files.read_checkpoint`.

    Raises:
        UsageError: If no weight of the checkpoint would be found for its prefix, or for the lack of one; if it can't be
            read as data.
    """
    for key, init_cfg in pretrained_settings(cfg):
        path = init_cfg['checkpoint']
        source = f'{key}.checkpoint'
        where = f'{osp.abspath(path)} (from {source})'
        if not is_local(path):
            continue
        checkpoint = read_checkpoint(path, source, trust, mmap=True)
        if not _loads_by_prefix(cfg, key):
            continue
        weights = checkpoint.get('state_dict', checkpoint)
        names = [re.sub(r'^module\.', '', name) for name in weights if isinstance(name, str)]
        prefix = init_cfg.get('prefix') or ''
        prefix = prefix if not prefix or prefix.endswith('.') else f'{prefix}.'
        own = key.removeprefix('model.').removesuffix('init_cfg')
        if prefix and not any(name.startswith(prefix) for name in names):
            raise UsageError(
                f'{where} has no weights under {key}.prefix={prefix!r}: it has {_some(names)}. '
                f'Give the prefix that it has, or none: --cfg-options {key}.prefix=None'
            )
        if not prefix and sum(name.startswith(own) for name in names) > len(names) / 2:
            raise UsageError(
                f'{where} is of a whole model: its weights are under {own!r}, and {key} has no prefix. '
                f'Give it: --cfg-options {key}.prefix={own}'
            )


def _loads_by_prefix(cfg: Mapping, key: str) -> bool:
    """Whether the module that ``key`` belongs to leaves loading to mmengine; some rename weights by themselves."""
    node = cfg
    for name in key.split('.')[:-1]:
        node = node[int(name)] if isinstance(node, list | tuple) else node[name]
    module = node.get('type')
    if isinstance(module, str):
        # In the registry of the codebase, as build() does it.
        with MODELS.switch_scope_and_registry(None) as registry:
            module = registry.get(module)
    return getattr(module, 'init_weights', None) is BaseModule.init_weights


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to go on from: what ``last_checkpoint`` names, which mmengine writes after each checkpoint.

    A run that was killed while it wrote that line, or before the first, left none; then it is the checkpoint furthest
    in training of those that are complete.

    Args:
        work_dir: The folder of the run.

    Returns:
        Its path; None if there is none.
    """
    note = Path(work_dir, 'last_checkpoint')
    named = note.read_text(encoding='utf-8').strip() if note.is_file() else ''
    if named:
        beside = Path(work_dir, Path(named).name)
        return named if not beside.is_file() or Path(named).is_file() else str(beside)
    checkpoints = [path for path in Path(work_dir).glob('*_*.pth') if re.fullmatch(r'(iter|epoch)_\d+', path.stem)]
    complete = [path for path in checkpoints if zipfile.is_zipfile(path)]
    return max(map(str, complete), key=lambda path: int(Path(path).stem.split('_')[1]), default=None)


def _shapes_of(model: Mapping) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's weights; empty if it can't be built just for that."""
    # Without memory or time, if the model allows it.
    for device in ('meta', 'cpu'):
        try:
            with torch.device(device):
                network = MODELS.build(copy.deepcopy(model))
        except Exception:
            continue
        return {name: tuple(value.shape) for name, value in network.state_dict().items()}
    return {}


def _check_resumable(checkpoint: Mapping, own: Mapping, shapes: Mapping, where: str) -> None:
    remedy = 'To start a new run from its weights, leave out --resume and give --cfg-options load_from=PATH.'
    meta = checkpoint.get('meta')
    known = meta if isinstance(meta, Mapping) else {}
    missing = [f'meta.{key}' for key in ('epoch', 'iter') if key not in known]
    missing += [key for key in ('message_hub', 'optimizer') if key not in checkpoint]
    if missing:
        raise UsageError(f'cannot resume from {where}: it has no {", ".join(missing)}. {remedy}')
    lost = [name for name in own if name not in shapes]
    different = [name for name in own if name in shapes and own[name] != shapes[name]]
    if lost:
        raise UsageError(
            f'cannot resume from {where}: it is of another model. It lacks {len(lost)} of {len(own)} weights: '
            f'{_some(lost)}. {remedy}'
        )
    if different:
        name = different[0]
        raise UsageError(
            f'cannot resume from {where}: it is of another model. {len(different)} of {len(own)} weights have another '
            f'shape: {name} has {shapes[name]}, the model {own[name]}. {remedy}'
        )


def _hint(own: Mapping, shapes: Mapping, path: str) -> str:
    """Weights of a backbone alone, a frequent case."""
    backbone = {name.removeprefix('backbone.') for name in own if name.startswith('backbone.')}
    if not backbone & shapes.keys():
        return ''
    return (
        f' They fit its backbone: --cfg-options model.backbone.init_cfg.type=Pretrained '
        f'model.backbone.init_cfg.checkpoint={path}'
    )


def _some(names) -> str:
    names = list(map(str, names))
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
