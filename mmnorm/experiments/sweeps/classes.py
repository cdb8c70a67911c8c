"""The IoU of each class by norm, from the areas that a table keeps."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config

from ...errors import UsageError
from ..commands import CONFIGS
from .areas import areas_of_text, ious
from .summary import Group, of_sets


def markdown(groups: Sequence[Group]) -> str:
    """A table for each set: a row a class, a column a norm, mean ± standard deviation over the seeds.

    Args:
        groups: Each norm once a set.

    Raises:
        UsageError: If no run has areas.
    """
    groups = [group for group in groups if all(record.areas for record in group.records)]
    if not groups:
        raise UsageError('no run of these sets has the areas of its images; ImageAreasHook keeps them')
    return '\n'.join(_table(name, of_set) for name, of_set in of_sets(groups, ()).items())


def _table(name: str, groups: Sequence[Group]) -> str:
    columns = [[ious(areas_of_text(record.areas)) for record in group.records] for group in groups]
    heads = [group.records[0].run.norm for group in groups]
    lines = [f'| {name}, IoU | {" | ".join(heads)} |', f'| --- |{" ---: |" * len(heads)}']
    for index, label in enumerate(_names(groups[0], len(columns[0][0]))):
        lines.append(_row(label, [[float(seed[index]) for seed in column] for column in columns]))
    lines.append(_row('mean', [[float(np.nanmean(seed)) for seed in column] for column in columns]))
    return '\n'.join(lines) + '\n'


def _names(group: Group, number: int) -> Sequence[str]:
    metainfo = Config.fromfile(CONFIGS / group.records[0].run.config).val_dataloader.dataset.get('metainfo') or {}
    classes = metainfo.get('classes', ())
    return classes if len(classes) == number else [str(index) for index in range(number)]


def _row(label: str, columns: Sequence[Sequence[float]]) -> str:
    return f'| {label} | {" | ".join(map(_cell, columns))} |'


def _cell(values: Sequence[float]) -> str:
    # Of the seeds that have the class.
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return '-'
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.1f}{spread}'
