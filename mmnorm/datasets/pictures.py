"""Image files in and out: RGB from 0 to 1, whatever the file has."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError

# Images that OpenMMLab's pipelines read (BGR, 0 to 255) become RGB from 0 to 1.
IMAGES_OF_0_TO_1 = dict(type='ImgDataPreprocessor', mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True)


@dataclass
class Picture:
    """An image.

    Attributes:
        rgb: (3, H, W), 0 to 1; a grey image has three equal channels.
        alpha: (1, H, W), 0 to 1; None if the file has none.
    """

    rgb: Tensor
    alpha: Tensor | None = None


def read_picture(path: str | Path, what: str) -> Picture:
    """Read an image of any kind: grey, of 16 bits, with a palette, with alpha, turned by its EXIF.

    Args:
        path: The file.
        what: What it is and where it was given, for messages.

    Raises:
        UsageError: If it is not there, or no image.
    """
    from PIL import Image, ImageOps

    if not Path(path).is_file():
        raise UsageError(f'there is no {Path(path).absolute()} ({what}); expected an image file')
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith('I'):
                # 16 bits, which PIL's conversion would cut off.
                array = np.asarray(image).astype(np.float32) / 65535
                return Picture(torch.from_numpy(np.repeat(array[None], 3, 0)).clamp(0, 1))
            has_alpha = 'A' in image.getbands() or 'transparency' in image.info
            array = np.asarray(image.convert('RGBA' if has_alpha else 'RGB'), dtype=np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f'{Path(path).absolute()} ({what}) cannot be read as an image: {error}') from None
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    return Picture(tensor[:3].contiguous(), tensor[3:].contiguous() if has_alpha else None)


def write_picture(path: str | Path, picture: Picture) -> None:
    """Write an image; where the format has no alpha, on white.

    Raises:
        UsageError: If the name's ending is of no format, or the file can't be written.
    """
    from PIL import Image

    path = Path(path)
    rgb, alpha = picture.rgb.detach().cpu(), picture.alpha
    if alpha is not None and path.suffix.lower() not in ('.png', '.webp', '.tif', '.tiff'):
        rgb, alpha = rgb * alpha + 1 - alpha, None
    tensor = rgb if alpha is None else torch.cat([rgb, alpha.cpu()])
    array = (tensor.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    try:
        Image.fromarray(array).save(path)
    except (OSError, ValueError) as error:
        raise UsageError(f'{path} cannot be written: {error}') from None


def resize_short_side(image: Tensor, size: int | None) -> Tensor:
    """Scale an image (3, H, W) to this short side; None leaves it as it is."""
    if size is None:
        return image
    scale = size / min(image.shape[1:])
    return resize(image, (round(image.shape[1] * scale), round(image.shape[2] * scale)))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale an image (3, H, W) to a height and a width."""
    return F.interpolate(image[None], size, mode='bilinear', antialias=True, align_corners=False)[0].clamp(0, 1)
