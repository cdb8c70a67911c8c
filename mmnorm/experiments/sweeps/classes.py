"""The IoU of each class by norm, from the areas that a table keeps."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
from mmengine.config import Config

from ...errors import UsageError
from ..commands import CONFIGS
from .areas import areas_of_text
from .summary import Group


def class_ious(areas: np.ndarray) -> np.ndarray:
    """IoU of each class in percent, NaN of one that is neither there nor predicted.

    Args:
        areas: (images, classes, 2), intersection and union in pixels.

    Returns:
        Array (classes,).
    """
    right, union = np.moveaxis(areas.sum(0, dtype=float), -1, 0)
    return 100 * np.where(union > 0, right / np.maximum(union, 1), np.nan)


def markdown(groups: Sequence[Group]) -> str:
    """A table for each set: a row a class, a column a norm, mean ± standard deviation over the seeds.

    Raises:
        UsageError: If no run has areas.
    """
    groups = [group for group in groups if all(record.areas for record in group.records)]
    if not groups:
        raise UsageError('no run of these sets has the areas of its images; ImageAreasHook keeps them')
    return '\n'.join(
        _table(name, [group for group in groups if group.records[0].run.group == name])
        for name in dict.fromkeys(group.records[0].run.group for group in groups)
    )


def _table(name: str, groups: Sequence[Group]) -> str:
    columns = [[class_ious(areas_of_text(record.areas)) for record in group.records] for group in groups]
    heads = []
    for group in groups:
        run = group.records[0].run
        same = [other for other in groups if other.records[0].run.norm == run.norm]
        heads.append(run.norm if len(same) == 1 else f'{run.norm}, {run.rate:g}')
    lines = [f'| {name}, IoU | {" | ".join(heads)} |', f'| --- |{" ---: |" * len(heads)}']
    for index, label in enumerate(_names(groups[0], len(columns[0][0]))):
        cells = [_cell([float(ious[index]) for ious in column]) for column in columns]
        lines.append(f'| {label} | {" | ".join(cells)} |')
    lines.append(f'| mean | {" | ".join(_cell([float(np.nanmean(ious)) for ious in column]) for column in columns)} |')
    return '\n'.join(lines) + '\n'


def _names(group: Group, number: int) -> Sequence[str]:
    metainfo = Config.fromfile(CONFIGS / group.records[0].run.config).val_dataloader.dataset.get('metainfo') or {}
    classes = metainfo.get('classes', ())
    return classes if len(classes) == number else [str(index) for index in range(number)]


def _cell(values: Sequence[float]) -> str:
    # Of the seeds that have the class.
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return '-'
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.1f}{spread}'
