"""Pre-flight checks: what a run needs is looked for before anything is built, written or lost."""

import importlib.util
import inspect
import os.path as osp
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions, version
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ..errors import UsageError

INSTALL = {
    'mmseg': "pip install onedl-mmsegmentation (or upstream's mmsegmentation)",
    'mmdet': "pip install onedl-mmdetection (or upstream's mmdet)",
    'mmpretrain': "pip install onedl-mmpretrain (or upstream's mmpretrain)",
}


def check_installed(module: str, config: str) -> None:
    """Look for the codebase that ``config`` is written for, without importing it.

    Raises:
        UsageError: If it is missing.
    """
    if importlib.util.find_spec(module) is None:
        how = INSTALL.get(module, f'install {module}, or correct the name')
        raise UsageError(f'{config} is written for {module}, which is not installed: {how}.')


def check_operators(needed_by: str) -> None:
    """Look for mmcv's compiled operators, which mmdet cannot be imported without; mmseg and mmpretrain can.

    Args:
        needed_by: What needs them, for the message.

    Raises:
        UsageError: If mmcv was built without them.
    """
    if importlib.util.find_spec('mmcv') is None or importlib.util.find_spec('mmcv._ext') is not None:
        return
    # onedl-mmcv, upstream's mmcv, or mmcv-lite, which never has any.
    name = packages_distributions().get('mmcv', ['mmcv'])[0]
    release = f'{name.removesuffix("-lite")}=={version(name)}'
    raise UsageError(
        f'{needed_by} needs mmdet, and mmdet the compiled operators of mmcv, which the installed one lacks. '
        f'In a checkout of mmnorm type: make env (it compiles them, once, in 5 to 10 minutes). Elsewhere, with torch, '
        f'setuptools, wheel and ninja installed: '
        f'pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir {release}'
    )


def check_codebase(cfg: Config, scope: str) -> None:
    """Import the codebase that ``cfg`` is written for and make it the default scope.

    Raises:
        UsageError: If it is missing, or present and broken.
    """
    check_installed(scope, cfg.filename)
    try:
        importlib.import_module(scope)
    except ImportError as error:
        raise UsageError(f'{scope}, which {cfg.filename} is written for, does not import: {error}') from None
    if scope == 'mmdet' or _names_mmdet(cfg.get('model')):
        check_operators(cfg.filename)
    init_default_scope(scope)


def check_data(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Look for the files and folders of the data sets behind ``loaders``, e.g. ('train_dataloader',).

    Raises:
        UsageError: If one is missing.
    """
    for loader in loaders:
        if cfg.get(loader) is None:
            continue
        for key, dataset in _datasets(cfg[loader]['dataset'], f'{loader}.dataset'):
            for option, path in _paths(dataset):
                if not osp.exists(path):
                    raise UsageError(
                        f'data not found: {osp.abspath(path)} ({option} of {key}, a {dataset.get("type")}). '
                        f'Put the data set there, or say where it is: '
                        f'--cfg-options {key}.{option}=PATH (the same for every loader and evaluator that reads it). '
                        f'To try a config without the real data, mmnorm digits writes data of its layout.'
                    )


def check_evaluator(cfg: Config, evaluators: tuple[str, ...]) -> None:
    """Look for the annotation files that ``evaluators`` read, e.g. ('val_evaluator',).

    Raises:
        UsageError: If one is missing.
    """
    for name in evaluators:
        metrics = cfg.get(name) or ()
        for metric in [metrics] if isinstance(metrics, Mapping) else metrics:
            path = metric.get('ann_file')
            if path and is_local(path) and not osp.exists(path):
                raise UsageError(
                    f'annotations not found: {osp.abspath(path)} (ann_file of {name}). '
                    f'Say where they are: --cfg-options {name}.ann_file=PATH'
                )


def check_checkpoint(path: str, source: str, remedy: str) -> None:
    """Look for a checkpoint file; names with a scheme (https://, torchvision://) are left to mmengine.

    Args:
        path: What was given.
        source: Where it was given, e.g. 'load_from'.
        remedy: What the user can do.

    Raises:
        UsageError: If the file is missing.
    """
    if is_local(path) and not osp.isfile(path):
        raise UsageError(f'checkpoint not found: {osp.abspath(path)} (from {source}). {remedy}')


def check_pretrained(cfg: Config) -> None:
    """Look for the files that ``init_cfg=dict(type='Pretrained', ...)`` names anywhere in the model.

    Raises:
        UsageError: If one is missing.
    """
    for key, init_cfg in pretrained_settings(cfg):
        check_checkpoint(init_cfg['checkpoint'], f'{key}.checkpoint', start_choices(key))


def start_choices(*keys: str) -> str:
    """What a network can start from instead of weights that are not there.

    Args:
        *keys: The ``init_cfg`` that named them, as for --cfg-options, e.g. 'model.backbone.init_cfg'.
    """
    key = keys[0] if len(keys) == 1 else f'{{{",".join(keys)}}}'
    return (
        f'A backbone starts from one of three, by --cfg-options: '
        f'a checkpoint of your own, {key}.checkpoint=PATH (with {key}.prefix=backbone. if it is of a whole network); '
        f"OpenMMLab's weights, {key}.checkpoint=torchvision://resnet50 or another such name (with {key}.prefix=None), "
        f'downloaded at the first run; or nothing, {key}=None.'
    )


def pretrained_settings(cfg: Config) -> list[tuple[str, Mapping]]:
    """Every ``init_cfg`` of type 'Pretrained' in the model, with its key for --cfg-options."""
    found = []

    def search(node, key: str) -> None:
        if isinstance(node, Mapping):
            if node.get('type') == 'Pretrained' and node.get('checkpoint'):
                found.append((key, node))
            for name, child in node.items():
                search(child, f'{key}.{name}')
        elif isinstance(node, list | tuple):
            for index, child in enumerate(node):
                search(child, f'{key}.{index}')

    search(cfg.get('model'), 'model')
    return found


def is_local(path: str) -> bool:
    """Whether ``path`` is one of this machine, not an address (https://, torchvision://)."""
    return '://' not in path


def _names_mmdet(node: Any) -> bool:
    """Whether a part of the model is mmdet's, as the losses of mmseg's Mask2Former are."""
    if isinstance(node, Mapping):
        return str(node.get('type')).startswith('mmdet.') or any(map(_names_mmdet, node.values()))
    return isinstance(node, list | tuple) and any(map(_names_mmdet, node))


def _datasets(dataset: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """The data sets that read files, below wrappers such as RepeatDataset and ConcatDataset."""
    if isinstance(dataset.get('dataset'), Mapping):
        yield from _datasets(dataset['dataset'], f'{key}.dataset')
    elif 'datasets' in dataset:
        for index, child in enumerate(dataset['datasets']):
            yield from _datasets(child, f'{key}.datasets.{index}')
    else:
        yield key, dataset


def _paths(dataset: Mapping) -> Iterator[tuple[str, str]]:
    """Options of a data set and the local paths they stand for, the root first."""
    if _downloads(dataset):
        return
    root = dataset.get('data_root') or ''
    if root:
        if not is_local(root):
            return
        yield 'data_root', root
    if dataset.get('ann_file'):
        yield 'ann_file', osp.join(root, dataset['ann_file'])
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, Mapping):
        prefixes = {None: prefixes}
    for name, prefix in prefixes.items():
        if isinstance(prefix, str) and is_local(prefix):
            option = 'data_prefix' if name is None else f'data_prefix.{name}'
            yield option, osp.join(root, prefix)


def _downloads(dataset: Mapping) -> bool:
    """Whether the data set fetches what is missing by itself, as mmpretrain's CIFAR10 does."""
    cls = dataset.get('type')
    cls = DATASETS.get(cls) if isinstance(cls, str) else cls
    return cls is not None and 'download' in inspect.signature(cls).parameters and dataset.get('download', True)
