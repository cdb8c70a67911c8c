"""Any folder of images as a data set, without labels."""

from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform, to_tensor
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.structures import BaseDataElement

from ..errors import UsageError
from ..registry import register_in

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')


def images_below(folder: Path) -> list[Path]:
    """The image files of a folder and the folders in it, in the order of their names.

    Raises:
        UsageError: If there are none.
    """
    found = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UsageError(
            f'no images in {folder.absolute()}: expected files that end with {", ".join(SUFFIXES)}, in it or in '
            f'folders below it'
        )
    return found


@register_in(DATASETS)
class ImageFolder(BaseDataset):
    """All images of a folder, in it and below it.

    Args:
        data_root: The folder.
        data_prefix: ``img_path`` is a folder below it.
        **kwargs: As of mmengine's BaseDataset; there is no ``ann_file``.
    """

    def __init__(self, data_root: str, data_prefix: dict | None = None, **kwargs: Any) -> None:
        prefix = dict(data_prefix or dict(img_path=''))
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry, ``img_path``, for each image.

        Raises:
            UsageError: If there are none.
        """
        return [dict(img_path=str(path)) for path in images_below(Path(self.data_prefix['img_path']))]


@register_in(TRANSFORMS)
class PackImage(BaseTransform):
    """The last step of a pipeline: ``inputs`` (3, H, W), uint8, BGR as mmcv reads it, and a sample with the path."""

    def transform(self, results: dict) -> dict:
        """Pack the image."""
        image = to_tensor(results['img'].transpose(2, 0, 1).copy())
        sample = BaseDataElement(metainfo=dict(img_path=results['img_path'], img_shape=results['img'].shape[:2]))
        return dict(inputs=image, data_samples=sample)
