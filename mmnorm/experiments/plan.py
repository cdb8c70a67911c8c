"""What has to run for a row, in order: pretraining first, then the row, then tests and figures; done is left out."""

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mmengine.config import Config

from ..errors import UsageError
from .catalogue import Catalogue, Experiment
from .commands import (
    Start,
    Variant,
    cfg_options,
    figure_command,
    own_name,
    read_config,
    shown,
    test_command,
    train_command,
)
from .folders import METRICS, SEVERAL_SCALES, RunFolder, checkpoint_names, final_name, run_folder

# Data of rows that run on a CPU as they are.
_SMALL = ('camvid', 'digits')


class Shrink(Protocol):
    """Makes a row small; see tiny.py."""

    def __call__(self, cfg: Config) -> None:
        """Change a config for a small run, in place."""

    def words(self, words: Sequence[str]) -> list[str]:
        """The words of a figure's command, for a small run."""


@dataclass
class Step:
    """A command, and what it leaves.

    Attributes:
        title: What it is.
        command: The command.
        result: The file that is there when it is done.
        log: Where its output goes.
        codebase: What the config that it trains is written for.
        prepare: Has to be called before, e.g. to write the config that the command names.
    """

    title: str
    command: list[str]
    result: Path
    log: Path
    codebase: str | None = None
    prepare: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.result.exists()


@dataclass
class Planner:
    """Plans runs below a folder.

    Args:
        catalogue: The experiments.
        root: Where all runs go.
        code: With the authors' code's values in place of the papers'.
        gpus: On so many GPUs, in place of the rows' numbers.
        shrink: Makes a config small; None leaves it as it is.
    """

    catalogue: Catalogue
    root: Path
    code: bool = False
    gpus: int | None = None
    shrink: Shrink | None = None

    def steps(self, row: Experiment, seeds: Iterable[int] = (0,)) -> list[Step]:
        """Every step of a row, each once, in an order in which each finds what it needs.

        Pretraining has one seed, the first, whatever the seeds of what starts from it are.

        Raises:
            UsageError: If the row is not built, or is nothing that runs.
        """
        found: dict[Path, Step] = {}
        for seed in seeds:
            for step in self._steps(row, seed):
                found.setdefault(step.result, step)
        return list(found.values())

    def folder(self, row: Experiment, seed: int = 0) -> RunFolder:
        """Where the run of a row goes."""
        return run_folder(self.root, self.catalogue.run_of(row), seed, self.code)

    def gpus_needed(self, row: Experiment) -> int:
        """The most GPUs that a step of the row is run on."""
        row = self.catalogue.run_of(row)
        needed = [self._variant().gpus_of(row)] if row.kind in ('train', 'test') else []
        others = [name for name in (row.start, row.test) if name] + [other.id for other in self._rows_of(row)]
        return max([*needed, *(self.gpus_needed(self.catalogue[name]) for name in others)], default=1)

    def _steps(self, row: Experiment, seed: int) -> list[Step]:
        row = self.catalogue.run_of(row)
        if row.kind == 'not built':
            raise UsageError(f'{row.id} is not built: {row.why}')
        if row.kind == 'count':
            raise UsageError(f'{row.id} is counted, not run: tests/experiments/test_counts.py, mmnorm complexity')
        if self.shrink and row.data in _SMALL:
            raise UsageError(f'{row.id} is small already; run it as it is')
        if row.kind == 'draw':
            return self._drawing(row, seed)
        return self._testing(row, seed) if row.kind == 'test' else self._training(row, seed)

    def _variant(self, seed: int | None = None) -> Variant:
        return Variant(self.code, self.gpus, seed)

    def _training(self, row: Experiment, seed: int) -> list[Step]:
        folder, variant = self.folder(row, seed), self._variant(seed)
        steps, start = [], None
        if row.start:
            source = self.catalogue.run_of(self.catalogue[row.start])
            steps += self._training(source, 0)
            pretrained = self._config(source, 0)
            start = Start(self.folder(source).path / final_name(pretrained), pretrained)
        cfg = self._config(row, seed, start)
        options = {**(start.settings(read_config(row)) if start else {}), **variant.settings(row)}
        config, prepare = self._file(row, folder, cfg)
        words = [] if self.shrink else cfg_options(options)
        command = train_command(config, variant.gpus_of(row), folder.path, *variant.flags(row), *words)
        result = folder.path / final_name(cfg)
        title, log = f'{row.id}: training, seed {seed}', folder.path / 'train.txt'
        steps.append(Step(title, command, result, log, cfg.get('default_scope'), prepare))
        if any(self.catalogue.metrics[name].tta for name in row.paper if name != 'note'):
            out = folder.path / SEVERAL_SCALES
            dumped = shown(folder.path / Path(row.config).name)
            command = test_command(dumped, result, variant.gpus_of(row), out, '--tta')
            steps.append(Step(f'{row.id}: test at several scales', command, out, folder.path / 'several_scales.txt'))
        return steps

    def _testing(self, row: Experiment, seed: int) -> list[Step]:
        assert row.test is not None
        source = self.catalogue.run_of(self.catalogue[row.test])
        trained, variant = self.folder(source, seed), self._variant()
        checkpoint = trained.path / final_name(self._config(source, seed))
        folder = self.folder(row, seed)
        cfg = self._config(row, seed)
        config, prepare = self._file(row, folder, cfg)
        gpus = variant.gpus_of(row)
        words = [] if self.shrink else cfg_options(variant.settings(row))
        if row.batch_average:
            images = gpus * cfg.train_dataloader.batch_size
            batches = 2 if self.shrink else math.ceil(row.batch_average / images)
            words = ['--batch-average', str(batches), *words]
        out = folder.path / METRICS
        command = test_command(config, checkpoint, gpus, out, *words)
        step = Step(f'{row.id}: test, seed {seed}', command, out, folder.path / 'test.txt', prepare=prepare)
        return [*self._training(source, seed), step]

    def _drawing(self, row: Experiment, seed: int) -> list[Step]:
        rows = self._rows_of(row)
        steps = [step for other in rows for step in self._steps(other, seed)]
        folder = self.folder(row, seed).path
        words = shlex.split(row.draw)
        if self.shrink:
            words = self.shrink.words(words)
        out = folder / f'{words[0]}.png'
        title = f'{row.id}: figure'
        if words[0] in ('curves', 'bars'):
            kind = {'curves': '--curves', 'bars': '--picture'}[words[0]]
            compare = ['mmnorm', 'experiments', 'compare', *(other.id for other in rows)]
            extra = ['--code'] if self.code else []
            command = [*compare, '--root', str(self.root), *extra, *words[1:], kind, str(out)]
            return [*steps, Step(title, command, out, folder / 'draw.txt')]
        sources: list[Path] = []
        for other in rows:
            run, cfg = self.folder(other, seed).path, self._config(self.catalogue.run_of(other), seed)
            sources += [run / name for name in checkpoint_names(cfg, row.epochs)]
        names = ['--names', *(other.row for other in rows)] if len(rows) > 1 else []
        command = figure_command(words, sources, out, *names)
        return [*steps, Step(title, command, out, folder / 'draw.txt')]

    def _rows_of(self, row: Experiment) -> list[Experiment]:
        """What a figure is of, as it names it, each run once."""
        runs: dict[str, Experiment] = {}
        for other in self.catalogue.matching(row.of):
            run = self.catalogue.run_of(other)
            if run.kind in ('train', 'test'):
                runs.setdefault(run.id, other)
        return list(runs.values())

    def _config(self, row: Experiment, seed: int, start: Start | None = None) -> Config:
        cfg = read_config(row, self._variant(seed), start)
        if self.shrink:
            self.shrink(cfg)
        return cfg

    def _file(self, row: Experiment, folder: RunFolder, cfg: Config) -> tuple[str, Callable[[], None]]:
        """The config that a command names, and what writes it where it is not a file of the project."""
        if not self.shrink:
            return own_name(row), lambda: None
        config = folder.path / Path(row.config).name

        def write() -> None:
            config.parent.mkdir(parents=True, exist_ok=True)
            cfg.dump(config)

        return shown(config), write
