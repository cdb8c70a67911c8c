"""What was recorded, and its file: an npz without pickled objects. docs/analysis.md describes the format."""

import os
import zipfile
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import write_atomically
from ..registry import kinds_in_words

VERSION = 1
_KIND = 'mmnorm.analysis record'
# By what a layer learns.
_FIGURES = {
    'weights': 'weights, parts',
    'ratios': 'weights, parts, layers, classes, images, tsne',
    'affine': 'affine',
}


@dataclass
class LayerRecord:
    """One layer.

    Attributes:
        name: Its name in the model.
        norm: Its kind, e.g. 'SN'.
        conv: The convolution before it; see :class:`.wiring.Place`.
        size: Of its input, without batch and channels, in the first batch.
        channels: Number of channels C.
        normalizers: The pool, K names; empty without one.
        values: What there is of it, by :attr:`LearnedNorm.learns`. Weights: ``weights`` (2, K), mean then variance.
            Ratios: ``mean`` and ``std`` (K) over samples, and where the layer sees whole images ``ratios`` (N, K).
            Affine: for omega and beta ``*_counts`` and ``*_edges`` of a histogram over samples and channels, ``*_mean``
            and ``*_std`` (C) over samples, and ``base_*`` (C), which are B_omega and B_beta.
    """

    name: str
    norm: str
    conv: str
    size: tuple[int, ...]
    channels: int
    normalizers: tuple[str, ...]
    values: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def learns(self) -> str:
        """What there is of it: 'weights', 'ratios' or 'affine', as the file says, whose norm may be unknown here."""
        return 'weights' if 'weights' in self.values else 'affine' if 'base_omega' in self.values else 'ratios'

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Average importance of each normalizer (K,), by what it is of: SN's mean and variance, EN's ratio."""
        if self.learns == 'weights':
            return dict(zip(('mean', 'variance'), self.values['weights'], strict=True))
        return {'ratio': self.values['mean']} if self.learns == 'ratios' else {}


@dataclass
class Record:
    """What :func:`.record` has collected.

    Attributes:
        layers: In the order of execution.
        samples: Number of samples N.
        labels: Class of each sample (N,), -1 where it has none; None without any.
        classes: Names of the classes, as far as they are known.
        images: Some of the samples, small, (I, side, side, 3), uint8, RGB.
        image_index: Which samples these are, (I,).
        unreached: Layers that no sample reached, e.g. of a head that only training has.
        title: What it is of, e.g. 'epoch 12'.
    """

    layers: list[LayerRecord]
    samples: int
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    images: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    image_index: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    unreached: tuple[str, ...] = ()
    title: str = ''

    def that_learn(self, *what: str) -> list[LayerRecord]:
        """The layers that learn 'weights', 'ratios' or 'affine'.

        Raises:
            UsageError: If there are none.
        """
        layers = [layer for layer in self.layers if layer.learns in what]
        if not layers:
            present = {layer.norm: _FIGURES[layer.learns] for layer in self.layers}
            raise UsageError(
                f'{self.title or "the record"} has no {kinds_in_words(*what)} layer, which this figure is of; '
                f'it has {", ".join(sorted(present))}. '
                + ' '.join(f'Figures for {norm}: {figures}.' for norm, figures in sorted(present.items()))
            )
        return layers

    def per_sample(self, names: list[str] | None = None) -> list[LayerRecord]:
        """The layers that have ratios of every sample, or those of ``names`` among them.

        Raises:
            UsageError: If a name is none of theirs, or there are none.
        """
        candidates = self.that_learn('ratios')
        layers = [layer for layer in candidates if 'ratios' in layer.values]
        if not layers:
            norm = candidates[0].norm
            raise UsageError(
                f'no {norm} layer of {self.title or "the record"} sees whole images, so there are no ratios of single '
                f'samples; expected {norm} in the backbone, e.g.'
            )
        return select(layers, names)


def select(layers: list[LayerRecord], names: list[str] | None) -> list[LayerRecord]:
    """The layers called ``names``, in that order; all without names.

    Raises:
        UsageError: If there is no layer of a name. It names the nearest.
    """
    if not names:
        return layers
    by_name = {layer.name: layer for layer in layers}
    for name in names:
        if name not in by_name:
            near = get_close_matches(name, by_name, n=3, cutoff=0.5)
            raise UsageError(
                f'no layer is called {name!r}. '
                + (f'Nearest: {", ".join(near)}. ' if near else '')
                + f'The {len(by_name)} layers are: {", ".join(by_name)}.'
            )
    return [by_name[name] for name in names]


def save_record(record: Record, path: str | Path) -> None:
    """Write a record to an .npz file, at once or not at all.

    Raises:
        UsageError: If the name does not end in .npz.
    """
    check_record_name(path)
    arrays: dict[str, Any] = {
        'kind': np.array(_KIND),
        'version': np.array(VERSION),
        'title': np.array(record.title),
        'samples': np.array(record.samples),
        'classes': np.array(record.classes, dtype=str),
        'unreached': np.array(record.unreached, dtype=str),
        'images': record.images,
        'image_index': record.image_index,
        'name': np.array([layer.name for layer in record.layers], dtype=str),
        'norm': np.array([layer.norm for layer in record.layers], dtype=str),
        'conv': np.array([layer.conv for layer in record.layers], dtype=str),
        'size': np.array(['x'.join(map(str, layer.size)) for layer in record.layers], dtype=str),
        'channels': np.array([layer.channels for layer in record.layers], dtype=np.int64),
        'normalizers': np.array([' '.join(layer.normalizers) for layer in record.layers], dtype=str),
    }
    if record.labels is not None:
        arrays['labels'] = record.labels
    for index, layer in enumerate(record.layers):
        arrays.update({f'layer{index}.{name}': value for name, value in layer.values.items()})
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def load_record(path: str | Path) -> Record:
    """Read a record.

    Raises:
        UsageError: If the file is missing, or no record, or of a later version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UsageError(f'record not found: {os.path.abspath(path)}. Write one with mmnorm analyze record.') from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f'{path} cannot be read as a record (.npz): {error}') from None
    if str(arrays.get('kind')) != _KIND:
        raise UsageError(f'{path} is not a record; expected a file that mmnorm analyze record has written')
    if arrays['version'] > VERSION:
        raise UsageError(f'{path} has format version {arrays["version"]}, this mmnorm reads up to {VERSION}; update it')
    layers = []
    for index, name in enumerate(arrays['name']):
        prefix = f'layer{index}.'
        size = str(arrays['size'][index])
        layers.append(
            LayerRecord(
                name=str(name),
                norm=str(arrays['norm'][index]),
                conv=str(arrays['conv'][index]),
                size=tuple(map(int, size.split('x'))) if size else (),
                channels=int(arrays['channels'][index]),
                normalizers=tuple(str(arrays['normalizers'][index]).split()),
                values={key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)},
            )
        )
    return Record(
        layers=layers,
        samples=int(arrays['samples']),
        labels=arrays.get('labels'),
        classes=tuple(map(str, arrays['classes'])),
        images=arrays['images'],
        image_index=arrays['image_index'],
        unreached=tuple(map(str, arrays['unreached'])),
        title=str(arrays['title']),
    )


def check_record_name(path: str | Path) -> None:
    """Refuse what is not the name of a record.

    Raises:
        UsageError: If it does not end in .npz, or its folder does not exist.
    """
    if Path(path).suffix != '.npz':
        raise UsageError(f'a record is an .npz file, got {path}')
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f'the folder of {path} does not exist')
