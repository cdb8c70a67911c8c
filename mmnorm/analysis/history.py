"""How the layers' averages went in the course of training: from what NormRatioHook logged, or from records."""

import json
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..registry import LEARNS, NORMS, kinds_in_words
from .record_file import Record


@dataclass
class Curve:
    """Averages of one layer.

    Attributes:
        name: Of the layer.
        norm: Its kind, e.g. 'SN'.
        steps: (T,).
        values: What was averaged, e.g. 'BN' or 'mean_BN', each (T,).
    """

    name: str
    norm: str
    steps: np.ndarray
    values: dict[str, np.ndarray]

    @property
    def learns(self) -> str:
        """What they are averages of: 'weights', 'ratios' or 'affine', by their names."""
        if 'omega' in self.values:
            return 'affine'
        return 'weights' if all('_' in tag for tag in self.values) else 'ratios'


@dataclass
class History:
    """Curves of all layers, in the order of the model.

    Attributes:
        curves: One for each layer.
        unit: What ``steps`` are, e.g. 'iteration'.
    """

    curves: list[Curve]
    unit: str

    def select(self, names: list[str] | None) -> list[Curve]:
        """The curves of these layers; all without names.

        Raises:
            UsageError: If there is no layer of a name. It names the nearest.
        """
        if not names:
            return self.curves
        by_name = {curve.name: curve for curve in self.curves}
        for name in names:
            if name not in by_name:
                near = get_close_matches(name, by_name, n=3, cutoff=0.5) or list(by_name)
                raise UsageError(f'no layer is called {name!r}; there are {", ".join(near)}')
        return [by_name[name] for name in names]


def scalar_files(run: Path) -> list[Path]:
    """The files into which mmengine's local backend has written, of a work dir or a folder of it; oldest first."""
    return [run] if run.is_file() else sorted(run.glob('**/vis_data/scalars.json'))


def read_history(run: str | Path) -> History:
    """Read what NormRatioHook has logged to the local backend.

    Args:
        run: A work dir, also of a run that was resumed, or a scalars.json.

    Raises:
        UsageError: If it has logged nothing there.
    """
    points: dict[tuple[str, str], dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    files = scalar_files(Path(run))
    for file in files:
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                entries = json.loads(line)
            except json.JSONDecodeError:
                # The last line of a run that was killed.
                continue
            for key, value in entries.items():
                kind, _, rest = key.partition('/')
                if kind in NORMS and '/' in rest:
                    name, _, tag = rest.rpartition('/')
                    points[kind, name][int(entries['step'])][tag] = value
    if not points:
        where = f'none of {", ".join(map(str, files))} has' if files else f'no vis_data/scalars.json in {run}, so no'
        raise UsageError(
            f'{where} curves of {kinds_in_words(*LEARNS)}. They are there after training with custom_hooks = '
            f"[dict(type='NormRatioHook')] and mmengine's local backend; or give checkpoints of the run instead."
        )
    curves = []
    for (norm, name), by_step in points.items():
        steps = sorted(by_step)
        tags = by_step[steps[0]]
        values = {tag: np.array([by_step[step].get(tag, np.nan) for step in steps]) for tag in tags}
        curves.append(Curve(name, norm, np.array(steps), values))
    return History(curves, 'iteration')


def history_of(records: list[Record]) -> History:
    """The same from records of the checkpoints of a run, in their order, called e.g. 'epoch 3'.

    Raises:
        UsageError: If they are of different networks.
    """
    names = [layer.name for layer in records[0].layers]
    steps, unit = steps_of([record.title for record in records])
    curves = []
    for record in records[1:]:
        if [layer.name for layer in record.layers] != names:
            raise UsageError(f'{records[0].title} and {record.title} are of different networks')
    for index, layer in enumerate(records[0].layers):
        values = [_averages(record.layers[index]) for record in records]
        curve = {tag: np.array([value[tag] for value in values]) for tag in values[0]}
        curves.append(Curve(layer.name, layer.norm, steps, curve))
    return History(curves, unit)


def _averages(layer) -> dict[str, float]:
    if layer.learns == 'affine':
        return {name: float(layer.values[f'{name}_mean'].mean()) for name in ('omega', 'beta')}
    if layer.learns == 'ratios':
        return dict(zip(layer.normalizers, map(float, layer.values['mean']), strict=True))
    return {
        f'{moment}_{normalizer}': float(value)
        for moment, row in zip(('mean', 'var'), layer.values['weights'], strict=True)
        for normalizer, value in zip(layer.normalizers, row, strict=True)
    }


def steps_of(titles: list[str]) -> tuple[np.ndarray, str]:
    """Where in training records are, by their titles, and in what unit: 'epoch 3' is 3, 'epoch'."""
    words = [title.split() for title in titles]
    if all(len(w) == 2 and w[1].isdigit() for w in words) and len({w[0] for w in words}) == 1:
        return np.array([int(w[1]) for w in words]), words[0][0]
    return np.arange(1, len(titles) + 1), 'checkpoint'
