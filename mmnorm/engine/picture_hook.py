"""The hook behind ``mmnorm test --show-dir`` for models that make images."""

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..datasets.pictures import Picture, resize, write_picture
from ..registry import register_in
from .batch_average import unwrap


@register_in(HOOKS)
class PictureHook(Hook):
    """Writes the pictures that a model has of a test sample, side by side, to a file named after the image.

    Which they are the model says: ``pictures(sample)`` gives them, (3, H, W) from 0 to 1. All get the size of
    the last.

    Args:
        enable: Whether to write any.
        out_dir: The folder.
    """

    def __init__(self, enable: bool = False, out_dir: str | None = None) -> None:
        self.enable, self.out_dir = enable, out_dir
        self._written: set[str] = set()

    def before_test(self, runner) -> None:
        """Make the folder."""
        self._written.clear()
        if self.enable and self.out_dir is not None:
            Path(self.out_dir).mkdir(parents=True, exist_ok=True)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Write those of a batch."""
        if not self.enable or self.out_dir is None:
            return
        import torch

        model: Any = unwrap(runner.model)
        for sample in outputs or ():
            pictures = [picture.detach().float().cpu() for picture in model.pictures(sample)]
            size = tuple(pictures[-1].shape[1:])
            row = torch.cat([resize(picture, size) for picture in pictures], dim=2)
            write_picture(Path(self.out_dir, f'{self._name(sample)}.png'), Picture(row))

    def _name(self, sample) -> str:
        """That of the image; images of the same name in several folders are numbered."""
        stem = name = Path(sample.metainfo.get('img_path', 'image')).stem
        number = 1
        while name in self._written:
            number += 1
            name = f'{stem}_{number}'
        self._written.add(name)
        return name
