"""What networks of a segmentation see: images, their labels, and the predictions of each norm beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import load_checkpoint

from ...analysis.figures.style import WIDTH, new_figure, paper_style
from ...analysis.inputs import build_model
from ...errors import UsageError
from ..folders import final_name
from .summary import Group

# Of pixels that do not count, and of what the palette does not have.
_VOID = (0, 0, 0)


def pictures_figure(groups: Sequence[Group], root: Path, number: int) -> Figure:
    """A row for each of ``number`` validation images, evenly spaced; columns: image, label, each norm's first seed.

    Args:
        groups: Of one set, each norm once, with its runs' work dirs still there.
        root: Where the work dirs of the plan's runs are.
        number: How many images.

    Raises:
        UsageError: If a run's checkpoint is gone, or the network does no segmentation.
    """
    runs = [group.records[0].run for group in groups]
    columns: dict[str, list[np.ndarray]] = {}
    for run in runs:
        columns |= _columns(run.norm, root / run.folder, Path(run.config).name, number)
    height, width = columns['image'][0].shape[:2]
    with paper_style():
        figure = new_figure(number * WIDTH / len(columns) * height / width + 0.3)
        for across, (title, images) in enumerate(columns.items()):
            for down, image in enumerate(images):
                axes = figure.add_subplot(number, len(columns), down * len(columns) + across + 1)
                axes.imshow(image)
                axes.axis('off')
                if down == 0:
                    axes.set_title(title)
    return figure


def _columns(norm: str, work_dir: Path, config: str, number: int) -> dict[str, list[np.ndarray]]:
    """Images and labels, and what the run in ``work_dir`` predicts, by the title of their column."""
    if not (work_dir / config).is_file():
        raise UsageError(f'{work_dir} has no {config}: pictures take the work dirs of the runs; give theirs by --root')
    cfg = Config.fromfile(work_dir / config)
    checkpoint = work_dir / final_name(cfg)
    if not checkpoint.is_file():
        raise UsageError(f'{checkpoint} is gone; remove the line of this run from the table to run it again')
    init_default_scope(cfg.default_scope)
    model: Any = build_model(cfg).eval()
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    dataset: Any = DATASETS.build(cfg.val_dataloader.dataset)
    palette = np.array([*dataset.metainfo.get('palette', ()), _VOID], np.uint8)
    columns: dict[str, list[np.ndarray]] = {'image': [], 'label': [], norm: []}
    for index in np.linspace(0, len(dataset) - 1, number).round().astype(int):
        with torch.no_grad():
            (sample,) = model.val_step(pseudo_collate([dataset[int(index)]]))
        if not hasattr(sample, 'pred_sem_seg') or not hasattr(sample, 'gt_sem_seg'):
            raise UsageError(f'{cfg.filename}: pictures are of segmentations with labels, this network does none')
        columns['image'].append(_read(sample.img_path, sample.gt_sem_seg.shape))
        columns['label'].append(_painted(sample.gt_sem_seg, palette))
        columns[norm].append(_painted(sample.pred_sem_seg, palette))
    return columns


def _read(path: str, size: tuple[int, int]) -> np.ndarray:
    import mmcv

    return mmcv.imresize(mmcv.imread(path, channel_order='rgb'), size[::-1], interpolation='area')


def _painted(label: Any, palette: np.ndarray) -> np.ndarray:
    """(H, W, 3) of a label map (1, H, W); what is beyond the palette is void."""
    return palette[np.minimum(label.data[0].numpy(), len(palette) - 1)]
