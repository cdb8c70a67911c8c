"""How large the images are that a config trains on, where there are no data to ask."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ..costs import SIZES

_CROPS = {'RandomCrop': 'crop_size', 'CenterCrop': 'crop_size', 'RandomResizedCrop': 'scale', 'ResizeEdge': 'scale'}


def training_size(cfg: Config, scope: str) -> tuple[int, int]:
    """Height and width of training images: what the last crop or resize makes, padded as the preprocessor pads.

    Args:
        cfg: The config.
        scope: The codebase that it is written for, whose papers' size it is if the config says none.
    """
    size = None
    for step in _pipeline(cfg):
        kind = str(step.get('type')).rpartition('.')[2]
        if kind in _CROPS and step.get(_CROPS[kind]) and step.get('crop_type', 'absolute') == 'absolute':
            # Height before width.
            size = _pair(step[_CROPS[kind]])
        elif kind in ('Resize', 'RandomResize') and step.get('scale') and not _is_list_of_pairs(step['scale']):
            # Width before height, as mmcv has it.
            height, width = _pair(step['scale'])[::-1]
            size = height, width
    preprocessor = {**(cfg.get('data_preprocessor') or {}), **(cfg.model.get('data_preprocessor') or {})}
    if preprocessor.get('size'):
        size = _pair(preprocessor['size'])
    height, width = size or SIZES[scope]
    divisor = preprocessor.get('pad_size_divisor') or 1
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _pipeline(cfg: Config) -> list[Mapping]:
    dataset: Any = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    steps: list[Mapping] = []
    while isinstance(dataset, Mapping):
        # What is below a wrapper comes first.
        steps = list(dataset.get('pipeline') or ()) + steps
        below = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
        dataset = below
    return steps


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value[:2]
    return int(first), int(second)


def _is_list_of_pairs(value: Any) -> bool:
    return not isinstance(value, int) and not isinstance(value[0], int)
