"""From what a user names, a checkpoint or a recorded file, to a record."""

import argparse
import re
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import MODELS
from mmengine.runner import Runner, load_checkpoint
from torch.utils.data import DataLoader

from ..cli import checks, launch
from ..cli.start import check_weights
from ..errors import UsageError
from ..files import add_trust_argument, read_weights
from .class_names import choose_classes, find_classes
from .network_parts import learned_norms
from .record_file import Record, load_record
from .recorder import record

if TYPE_CHECKING:
    from mmengine.dataset import BaseDataset

SPLITS = ('val', 'test', 'train')
_UNITS = {'iter': 'iteration', 'epoch': 'epoch'}


class Sources:
    """Opens checkpoints and recorded files; networks and data of the same config are built once.

    Args:
        args: The options of :func:`add_arguments`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self._networks: dict[str, tuple] = {}

    def open(self, path: str) -> Record | None:
        """The record of a file, or of a checkpoint run over its data.

        Returns:
            The record; None in all processes but the first.

        Raises:
            UsageError: If there is something wrong with it.
        """
        if Path(path).suffix == '.npz':
            opened = load_record(path)
            opened.title = opened.title or Path(path).stem
            classes = getattr(self.args, 'classes', None)
            return samples_of(opened, classes) if classes else opened
        if Path(path).is_dir():
            raise UsageError(f'{path} is a folder; expected a checkpoint (.pth) or a recorded file (.npz)')
        return self._record(path)

    def open_all(self, paths: list[str]) -> list[Record]:
        """The same of several; a folder stands for its checkpoints, in the order of training."""
        paths = [file for path in paths for file in (checkpoints_in(path) if Path(path).is_dir() else [path])]
        records = [opened for path in paths if (opened := self.open(path)) is not None]
        if len({opened.title for opened in records}) < len(records):
            # The last epochs of several runs.
            for path, opened in zip(paths, records, strict=True):
                opened.title = f'{Path(path).absolute().parent.name} {opened.title}'
        return records

    def _record(self, path: str) -> Record | None:
        trust = self.args.trust_checkpoint
        state_dict, rest = read_weights(path, trust)
        model, loader, cfg = self._network(path, rest)
        check_weights(cfg.model, path, 'the command line', trust=trust)
        _check_learned(model, state_dict, path)
        load_checkpoint(model, path, map_location='cpu')
        model.to(get_device()).eval()
        return record(model, loader, self.args.max_samples, self.args.num_images, title=title_of(path))

    def _network(self, path: str, rest: Mapping) -> tuple:
        config = self.args.config
        key = config or config_in(path, rest, self.args.trust_checkpoint)
        if key not in self._networks:
            self._networks[key] = self._build(path, None if config else key)
        return self._networks[key]

    def _build(self, path: str, text: str | None) -> tuple:
        cfg, _ = read_config(self.args, path, text)
        if cfg.launcher != 'none' and not is_distributed():
            init_dist(cfg.launcher)
        model = build_model(cfg)
        learned_norms(model)
        split = self._split(cfg)
        checks.check_data(cfg, (split,))
        # Few samples should be of all classes, and every checkpoint should get the same.
        settings = deepcopy(cfg[split])
        settings['sampler'] = dict(type='DefaultSampler', shuffle=True)
        loader = build_loader(settings, split)
        classes = getattr(self.args, 'classes', None)
        if classes:
            loader = build_loader({**settings, 'dataset': only_classes(loader.dataset, classes)}, split)
        return model, loader, cfg

    def _split(self, cfg: Config) -> str:
        present = [f'{split}_dataloader' for split in SPLITS if cfg.get(f'{split}_dataloader') is not None]
        wanted = f'{self.args.data}_dataloader' if self.args.data else next(iter(present), 'val_dataloader')
        if wanted not in present:
            raise UsageError(
                f'the config has no {wanted}; it has {", ".join(present) or "no data at all"}. '
                f'Give another with --data, or the config with --config.'
            )
        return wanted


def add_arguments(parser: argparse.ArgumentParser, max_samples: int) -> None:
    """What there is to say about a checkpoint, and the data to run it on."""
    group = parser.add_argument_group('for checkpoints')
    group.add_argument(
        '--config', help='config (default: the one that mmengine keeps in the checkpoint, if it lies beside it too)'
    )
    group.add_argument('--data', choices=SPLITS, help='which data set of the config (default: the first it has)')
    group.add_argument(
        '--max-samples', type=int, default=max_samples, help='how many samples, at random (default: %(default)s)'
    )
    group.add_argument('--num-images', type=int, default=64, help='keep pictures of so many (default: %(default)s)')
    text = 'as in mmnorm train'
    group.add_argument('--cfg-options', nargs='+', action=launch.DictAction, metavar='KEY=VALUE', help=text)
    group.add_argument('--norm', help=f'{text}, if the config alone does not say it')
    group.add_argument('--norm-scope', help=text)
    add_trust_argument(group)
    group.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    group.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def samples_of(opened: Record, classes: list[str]) -> Record:
    """What a record has of the samples of some classes; averages of layers without ratios of samples stay.

    Raises:
        UsageError: If it has no labels, or no sample of a class.
    """
    chosen = choose_classes(opened, classes)
    # It has refused a record without.
    assert opened.labels is not None
    keep = np.isin(opened.labels, chosen)
    layers = []
    for layer in opened.layers:
        values = dict(layer.values)
        if 'ratios' in values:
            ratios = values['ratios'][keep]
            values.update(ratios=ratios, mean=ratios.mean(0), std=ratios.std(0))
        layers.append(replace(layer, values=values))
    place = np.cumsum(keep) - 1
    images = keep[opened.image_index]
    return replace(
        opened,
        layers=layers,
        samples=int(keep.sum()),
        labels=opened.labels[keep],
        images=opened.images[images],
        image_index=place[opened.image_index[images]],
    )


def only_classes(dataset: 'BaseDataset', classes: list[str]) -> 'BaseDataset':
    """The samples of some classes.

    Args:
        dataset: Of mmengine's kind, with ``gt_label`` in what ``get_data_info`` gives.
        classes: Names or numbers.

    Raises:
        UsageError: If it has no labels, or no such class.
    """
    if not hasattr(dataset, 'get_subset') or 'gt_label' not in dataset.get_data_info(0):
        raise UsageError(
            f'--classes: {type(dataset).__name__} has no labels to choose by; expected a data set of mmpretrain'
        )
    labels = [int(dataset.get_data_info(i)['gt_label']) for i in range(len(dataset))]
    names = dataset.metainfo.get('classes') or ()
    known = {label: str(names[label]) if label < len(names) else str(label) for label in sorted(set(labels))}
    wanted = set(find_classes(classes, known, 'the data set'))
    return dataset.get_subset([i for i, label in enumerate(labels) if label in wanted])


def checkpoints_in(folder: str) -> list[str]:
    """The checkpoints of a run, in the order of training.

    Raises:
        UsageError: If there are none.
    """
    found = [path for path in Path(folder).glob('*.pth') if re.fullmatch(r'(iter|epoch)_\d+', path.stem)]
    if not found:
        raise UsageError(f'no checkpoint (epoch_*.pth, iter_*.pth) in {folder}')
    return sorted(map(str, found), key=lambda path: int(Path(path).stem.split('_')[1]))


def title_of(path: str) -> str:
    """'epoch 3' for epoch_3.pth, else the name of the file."""
    stem = Path(path).stem
    kind, _, number = stem.partition('_')
    return f'{_UNITS[kind]} {number}' if kind in _UNITS and number.isdigit() else stem


def read_config(args: argparse.Namespace, path: str, text: str | None) -> tuple[Config, str]:
    """The config of a checkpoint, and the codebase it is written for.

    Args:
        args: The options of :func:`add_arguments`, as far as they concern configs.
        path: The checkpoint.
        text: The config as it was when the checkpoint was saved, options of that training and all; None: take that of
            the command line.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = args.config
        if text is not None:
            file = Path(folder, f'{re.sub(r"[^0-9A-Za-z_]", "_", Path(path).stem)}.py')
            file.write_text(text, encoding='utf-8')
        options = {'work_dir': None, 'fuse': False, **vars(args), 'config': str(file)}
        return launch.load_config(argparse.Namespace(**options))


def config_in(path: str, rest: Mapping, trust: bool) -> str:
    """The config that a checkpoint has with it.

    It is code, whatever it looks like: a config names the functions that are called. What came with a file alone is not
    run unasked. In the work dir of a run the same text lies beside the checkpoint, and with each log.
    """
    meta = rest.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        raise UsageError(f'{path} does not say of which model it is (no meta.cfg in it); give its config with --config')
    folder = Path(path).absolute().parent
    files = [*folder.glob('*.py'), *folder.glob('*/vis_data/*.py')]
    if not trust and not any(file.read_text(encoding='utf-8', errors='replace') == text for file in files):
        raise UsageError(
            f'{path} has its config with it, and a config is code, which is not run unasked: no .py file in {folder} '
            f'says the same, as in the work dir of a run. Give a config with --config; or --trust-checkpoint, if the '
            f'checkpoint is your own or you trust whoever made it.'
        )
    return text


def build_model(cfg: Config) -> torch.nn.Module:
    """The model of a config, without what it starts from, as a Runner builds it."""
    settings = deepcopy(cfg.model)
    # What it starts from is in the checkpoint.
    for key, _ in checks.pretrained_settings(cfg):
        node = settings
        *parents, last = key.split('.')[1:]
        for name in parents:
            node = node[int(name)] if name.isdigit() else node[name]
        node[last] = None
    # Configs of mmpretrain have it beside the model, where the Runner looks for it.
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(settings)


def build_loader(settings: Mapping, split: str) -> DataLoader:
    """The loader of a config, always in the same order.

    Args:
        settings: What the config has under e.g. 'train_dataloader'.
        split: That name, for messages.

    Raises:
        UsageError: If its data set is empty.
    """
    try:
        return Runner.build_dataloader(settings, seed=0)
    except ValueError as error:
        # How mmengine's BaseDataset fails without data.
        if 'need at least one array' not in str(error):
            raise
        raise UsageError(
            f'the data set of {split} is empty; expected at least one sample. Look at its ann_file, data_prefix, '
            f'indices and filter_cfg, or take another with --data.'
        ) from None


def _check_learned(model: torch.nn.Module, state_dict: Mapping, path: str) -> None:
    """A checkpoint of plain norms loads into learned ones, but has learned nothing of what is to be shown."""
    names = {key.removeprefix('module.') for key in state_dict}
    layers = learned_norms(model)
    if not any(f'{name}.{own}' in names for name, layer in layers.items() for own in layer.own_parameters):
        name, layer = next(iter(layers.items()))
        raise UsageError(
            f'{path} has no weights of {layer.kind}, as its network has ({len(layers)} layers): expected e.g. '
            f'{name}.{layer.own_parameters[0]}. It comes from another norm; train with the learned ones first.'
        )
