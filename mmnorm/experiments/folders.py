"""Where the runs of a row go, and what they have left there."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from .catalogue import Experiment, Metric

METRICS, SEVERAL_SCALES = 'metrics.json', 'several_scales.json'
# What COCO's evaluation reports where there is nothing to measure, e.g. no object of that size.
_NOTHING = -1


@dataclass(frozen=True)
class RunFolder:
    """The work dir of one run: of a row, with one seed.

    Attributes:
        path: The folder.
    """

    path: Path

    def ended(self, row: Experiment) -> bool:
        """Whether the run of ``row`` that is here has come to the end of its schedule, or been tested."""
        if row.kind == 'test':
            return (self.path / METRICS).is_file()
        # Not the checkpoint itself, which may have been moved away since.
        last, config = self.path / 'last_checkpoint', self.path / Path(row.config).name
        if not (last.is_file() and config.is_file()):
            return False
        return Path(last.read_text(encoding='utf-8').strip()).name == final_name(Config.fromfile(config))

    def figure(self, metric: Metric) -> float | None:
        """What the run reached, in the paper's unit; None if it has not been evaluated so."""
        if metric.log is None:
            return None
        if metric.tta:
            reported = _read(self.path / SEVERAL_SCALES).get(metric.log)
        else:
            curve = self.curve(metric.log)
            tested = _read(self.path / METRICS).get(metric.log)
            reported = curve[-1][1] if curve else tested
        return None if reported in (None, _NOTHING) else metric.convert(reported)

    def curve(self, key: str) -> list[tuple[int, float]]:
        """What the run has logged under a key: step and value, of a run that was resumed too."""
        points = {entry['step']: entry[key] for entry in self._logged() if key in entry}
        return sorted(points.items())

    def training_curve(self, key: str) -> list[tuple[int, float]]:
        """What was logged of the batches of training, averaged over each epoch, or as it is without epochs."""
        sums: dict[int, list[float]] = {}
        for entry in self._logged():
            if key in entry:
                sums.setdefault(entry.get('epoch', entry['step']), []).append(entry[key])
        return [(step, sum(values) / len(values)) for step, values in sorted(sums.items())]

    def last_with(self, text: str) -> dict[str, float]:
        """What was logged last under each key with ``text`` in it."""
        return {k: value for entry in self._logged() for k, value in entry.items() if text in k}

    @property
    def unit(self) -> str:
        """What the steps of its curves are: 'epoch' or 'iteration'."""
        return 'epoch' if any('epoch' in entry for entry in self._logged()) else 'iteration'

    def _logged(self) -> Iterator[dict]:
        for file in sorted(self.path.glob('*/vis_data/scalars.json')):
            for line in file.read_text(encoding='utf-8').splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    # The last line of a run that was killed.
                    continue


def final_name(cfg: Config) -> str:
    """Name of the checkpoint with which a run of this config ends."""
    loop = cfg.train_cfg
    return f'iter_{loop.max_iters}.pth' if 'max_iters' in loop else f'epoch_{loop.max_epochs}.pth'


def checkpoint_names(cfg: Config, epochs: tuple[int, ...] | str | None = None) -> list[str]:
    """Names of checkpoints that a run of this config leaves: of these epochs, of 'all' epochs, or the last."""
    if epochs is None:
        return [final_name(cfg)]
    interval = cfg.default_hooks.checkpoint.get('interval', 1)
    kept = range(interval, cfg.train_cfg.max_epochs + 1, interval)
    return [f'epoch_{epoch}.pth' for epoch in kept if epochs == 'all' or epoch in epochs]


def run_folder(root: Path, row: Experiment, seed: int, code: bool = False) -> RunFolder:
    """The folder of a row's run with this seed, below ``root``."""
    return RunFolder(root / row.id / f'{"code_" if code else ""}seed_{seed}')


def seeds_of(root: Path, row: Experiment, code: bool = False) -> list[int]:
    """Seeds with which a row has been run."""
    pattern = re.compile(f'{"code_" if code else ""}seed_(\\d+)')
    matches = (pattern.fullmatch(path.name) for path in (root / row.id).glob('*') if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
