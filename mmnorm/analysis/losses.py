"""The losses of runs over training, from what mmengine's local backend wrote."""

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .history import scalar_files


@dataclass
class Losses:
    """The losses of a run.

    Attributes:
        title: What the run is called.
        steps: By loss, (T,) iterations.
        values: By loss, e.g. 'loss_style', (T,).
    """

    title: str
    steps: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


def read_losses(source: str | Path, others: Collection[str] = ()) -> Losses:
    """Read what a run has logged whose name has 'loss' in it; of iterations that were run again, the last.

    Args:
        source: A work dir, also of a run that was resumed, a checkpoint in it, or a scalars.json.
        others: What is read besides, e.g. 'reward'.

    Raises:
        UsageError: If nothing was logged there.
    """
    path = Path(source)
    run = path.absolute().parent if path.suffix == '.pth' else path
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for file in scalar_files(run) if run.exists() else ():
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                entries = json.loads(line)
            except json.JSONDecodeError:
                # The last line of a run that was killed.
                continue
            # Tests report losses too, without a learning rate. A model of several parts has one for each, generator.lr.
            if any(key == 'lr' or key.endswith(('/lr', '.lr')) for key in entries):
                for key, value in entries.items():
                    if ('loss' in key or key in others) and isinstance(value, int | float):
                        points[key][int(entries['step'])] = value
    if not points:
        raise UsageError(
            f'no losses in {run}: expected the work dir of a training, with vis_data/scalars.json of the local backend '
            f'somewhere in it'
        )
    series = {name: np.array(sorted(by_step.items())) for name, by_step in points.items()}
    steps = {name: values[:, 0] for name, values in series.items()}
    return Losses(run.name, steps, {name: values[:, 1] for name, values in series.items()})
