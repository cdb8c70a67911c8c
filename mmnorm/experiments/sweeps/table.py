"""The table of a sweep: a line of JSON for each run that is done, small enough to stand in the repository."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..folders import RunFolder
from .areas import read_areas
from .plan import SweepRun

# Points of a curve of losses that are kept.
POINTS = 20
# Metrics of which 1 is the best, by how their names begin; the others are percentages.
_PARTS_OF_ONE = ('coco/',)


@dataclass(frozen=True)
class Record:
    """What is kept of a run.

    Attributes:
        run: What was run.
        value: The metric at the end, in percent.
        validation: The metric over training: (iteration, value).
        loss: The loss of training: (iteration, average since the point before).
        ratios: What NormRatioHook logged last, averaged over the layers, e.g. {'EN/BN': 0.4, ...}.
        seconds: How long it took, from start to end; of a run that was resumed, since it was.
        version: Of the code, as git describes it.
        areas: What ImageAreasHook has kept of the last validation, as text; empty without it.
    """

    run: SweepRun
    value: float
    validation: list[tuple[int, float]]
    loss: list[tuple[int, float]]
    ratios: dict[str, float]
    seconds: float
    version: str
    areas: str = ''

    def line(self) -> str:
        """As a line of the table."""
        entry = {**asdict(self.run), **{k: v for k, v in vars(self).items() if k != 'run' and v != ''}}
        return json.dumps(entry, separators=(',', ':'))


def record_of(run: SweepRun, metric: str, work_dir: Path, seconds: float, version: str) -> Record:
    """Read what a run has left in its work dir.

    Raises:
        UsageError: If it has not reported the metric at its end.
    """
    folder = RunFolder(work_dir)
    curve = folder.curve(metric)
    if not curve or curve[-1][0] != run.iterations:
        raise UsageError(f'{work_dir} has no {metric} at iteration {run.iterations}; see the log there')
    loss = [(step, round(value, 4)) for step, value in folder.curve('loss')]
    loss = loss[:: -(-len(loss) // POINTS)] if len(loss) > POINTS else loss
    scale = 100 if metric.startswith(_PARTS_OF_ONE) else 1
    rounded = [(step, round(scale * value, 3)) for step, value in curve]
    return Record(run, rounded[-1][1], rounded, loss, _ratios(folder), round(seconds), version, read_areas(work_dir))


def read_table(path: Path) -> list[Record]:
    """Every line of a table; none if there is no such file.

    Raises:
        UsageError: If a line is not one of a table.
    """
    if not path.is_file():
        return []
    records = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        try:
            records.append(_record(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UsageError(
                f'{path}, line {number} is no run of a sweep: {error!r}. Remove it to run it again'
            ) from None
    return records


def append(path: Path, record: Record) -> None:
    """Add a line, at once and as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', encoding='utf-8') as file:
        file.write(record.line() + '\n')


def _record(entry: Mapping[str, Any]) -> Record:
    # A line that is older than a field of the run has its default.
    fields = {key: entry[key] for key in SweepRun.__dataclass_fields__ if key in entry}
    run = SweepRun(**{**fields, 'flags': tuple(fields['flags'])})
    rest = {key: entry[key] for key in Record.__dataclass_fields__ if key in entry}
    for key in ('validation', 'loss'):
        rest[key] = [(step, value) for step, value in rest[key]]
    return Record(run, **rest)


def _ratios(folder: RunFolder) -> dict[str, float]:
    """Averages over the layers of what NormRatioHook logged last, by kind of norm and what is logged of it."""
    found: dict[str, list[float]] = {}
    for tag, value in folder.last_with('/').items():
        kind, *layer, name = tag.split('/')
        # 'accuracy/top1' has no layer.
        if layer:
            found.setdefault(f'{kind}/{name}', []).append(value)
    return {tag: round(statistics.fmean(values), 3) for tag, values in found.items()}
