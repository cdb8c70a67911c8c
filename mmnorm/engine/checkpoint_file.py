"""A look into a checkpoint before anything is built or changed: is it whole, of this model, enough to resume from?"""

import copy
import os.path as osp
import re
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from ..errors import UsageError
from .checks import is_local, pretrained_settings


def check_weights(model: Mapping, path: str, source: str, resume: bool = False) -> Mapping | None:
    """Check that a checkpoint can be read, and is one of the model.

    mmengine loads what fits and passes over the rest, so that a checkpoint of another model would load nothing and the
    run start from scratch, unnoticed.

    Args:
        model: The model's config.
        path: The checkpoint; names with a scheme (https://, torchvision://) are left to mmengine.
        source: Where it was given, e.g. 'load_from'.
        resume: Whether a run is to go on from it, which takes more than weights.

    Returns:
        The checkpoint, its tensors left in the file; None where it is not looked into.

    Raises:
        UsageError: If it is damaged, holds no weights, has none in common with the model, or can't be resumed from.
    """
    if not is_local(path):
        return None
    where = f'{osp.abspath(path)} (from {source})'
    checkpoint = _read(path, where, trusted=resume)
    if checkpoint is None:
        return None
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


def check_prefixes(cfg: Mapping) -> None:
    """Check that ``init_cfg=dict(type='Pretrained', ...)`` looks for weights under names that its checkpoint has.

    A checkpoint of a whole model has ``backbone.`` before the names of the backbone's weights. Without
    ``prefix='backbone.'`` mmengine finds none of them, says so in the log and goes on.

    Args:
        cfg: The config of the run.

    Raises:
        UsageError: If no weight of the checkpoint would be found for its prefix, or for the lack of one.
    """
    for key, init_cfg in pretrained_settings(cfg):
        path = init_cfg['checkpoint']
        where = f'{osp.abspath(path)} (from {key}.checkpoint)'
        checkpoint = _read(path, where, trusted=False) if is_local(path) else None
        if checkpoint is None or not _loads_by_prefix(cfg, key):
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
    named = note.read_text().strip() if note.is_file() else ''
    if named:
        beside = Path(work_dir, Path(named).name)
        return named if not beside.is_file() or Path(named).is_file() else str(beside)
    checkpoints = [path for path in Path(work_dir).glob('*_*.pth') if re.fullmatch(r'(iter|epoch)_\d+', path.stem)]
    complete = [path for path in checkpoints if zipfile.is_zipfile(path)]
    return max(map(str, complete), key=lambda path: int(Path(path).stem.split('_')[1]), default=None)


def _read(path: str, where: str, trusted: bool) -> Mapping | None:
    remedy = 'Give one that is whole, e.g. the one saved before it.'
    with open(path, 'rb') as file:
        head = file.read(4)
    if not head:
        raise UsageError(f'checkpoint is empty: {where}. {remedy}')
    is_zip = zipfile.is_zipfile(path)
    if head == b'PK\x03\x04' and not is_zip:
        # The table of contents is at the end.
        raise UsageError(f'checkpoint is truncated: {where}, of {osp.getsize(path)} bytes, has no end. {remedy}')
    # PyTorch's format before 1.6 is a series of pickles.
    if not is_zip and head[:1] != b'\x80':
        raise UsageError(f'not a checkpoint: {where} was not written by torch.save.')
    try:
        try:
            checkpoint = _load(path, mmap=is_zip)
        except UnpicklingError:
            # It needs more than weights_only allows here; mmengine may know what to do with it. What a run of one's own
            # has written, mmengine unpickles in any case.
            if not trusted:
                return None
            checkpoint = _load(path, mmap=is_zip, weights_only=False)
    except EOFError:
        raise UsageError(f'checkpoint is truncated: {where}, of {osp.getsize(path)} bytes. {remedy}') from None
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f'checkpoint cannot be read: {where}: {reason} {remedy}') from None
    if not isinstance(checkpoint, Mapping):
        raise UsageError(f'no weights in {where}: expected a dict, got a {type(checkpoint).__name__}.')
    return checkpoint


def _load(path: str, mmap: bool, weights_only: bool = True):
    options = dict(map_location='cpu', mmap=mmap or None, weights_only=weights_only)
    # mmengine's own checkpoints hold the history of what was logged, and numpy numbers.
    safe_globals = getattr(torch.serialization, 'safe_globals', None)
    allowed = getattr(mmengine_checkpoint, 'get_torch_safe_globals', None)
    with safe_globals(allowed()) if safe_globals and allowed else nullcontext():
        return torch.load(path, **options)


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
    meta = checkpoint.get('meta') if isinstance(checkpoint.get('meta'), Mapping) else {}
    missing = [f'meta.{key}' for key in ('epoch', 'iter') if key not in meta]
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
