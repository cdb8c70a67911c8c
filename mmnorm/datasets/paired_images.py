"""Pairs of images as a data set: input and target of a translation."""

from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image

from ..errors import UsageError
from ..registry import register_in
from .image_folder import images_below

# Orientations of EXIF with width and height exchanged.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


@register_in(DATASETS)
class PairedImages(BaseDataset):
    """All pairs of two folders, or of one: an input and a target of the same name, but for its ending.

    The folders are looked through with those in them, and a name counts with its path in them. The same folder twice,
    and ``suffix``, is for data sets that have both in one, as CMP Facades is distributed: photograph ``cmp_b0001.jpg``
    and label map ``cmp_b0001.png``. One file with both side by side, as the authors of pix2pix distribute their data,
    is ``joined``.

    All of them are looked at, but for their pixels, before anything starts, and the first goes through the pipeline.

    Args:
        data_root: The folder of both.
        data_prefix: ``source`` and ``target``, folders below it.
        suffix: ``source`` and ``target``, how the names of the files end; anything that an image's ends with if None.
        joined: 'source-target' or 'target-source' if each file below ``source`` has both, in this order from the left;
            ``data_prefix.target`` and ``suffix.target`` then mean nothing.
        **kwargs: As of mmengine's BaseDataset, e.g. ``indices``; there is no ``ann_file``.

    Raises:
        UsageError: If there are no pairs, or fewer than ``indices`` names, an image is without its other, or the two
            have different sizes.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: dict | None = None,
        suffix: dict | None = None,
        joined: str | None = None,
        **kwargs: Any,
    ) -> None:
        if joined not in (None, 'source-target', 'target-source'):
            raise UsageError(f"PairedImages: joined is 'source-target', 'target-source' or None, got {joined!r}")
        self._indices: Any
        self.suffix, self.joined = dict(suffix or {}), joined
        prefix = {'source': '', **({} if joined else {'target': ''}), **(data_prefix or {})}
        if joined:
            prefix.pop('target', None)
        super().__init__(data_root=data_root, data_prefix=prefix, **kwargs)

    def full_init(self) -> None:
        """Look for the pairs, and take the first through the pipeline."""
        if self._fully_initialized:
            return
        super().full_init()
        # What does not fit is said here, in one message, rather than by a process that loads data.
        self.prepare_data(0)

    def load_data_list(self) -> list[dict]:
        """One entry for each pair: ``source_path``, ``target_path``, ``joined``, and the input's as ``img_path``.

        Raises:
            UsageError: If something is wrong with them, see above.
        """
        sources = self._by_name('source')
        targets = sources if self.joined else self._by_name('target')
        lonely = [*sorted(sources.keys() - targets.keys()), *sorted(targets.keys() - sources.keys())]
        if lonely:
            pairs = len(sources.keys() & targets.keys())
            raise UsageError(
                f'pairs have the same name in both folders: of {len(sources)} inputs in {self._where("source")} and '
                f'{len(targets)} targets in {self._where("target")}, {pairs} do, and {len(lonely)} do not, such as '
                f'{", ".join(lonely[:3])}. Move those away, or name other folders (data_prefix.source, '
                f'data_prefix.target) or endings (suffix.source, suffix.target)'
            )
        found = []
        for name, source in sources.items():
            target = targets[name]
            self._check_size(source, target)
            paths = dict(source_path=str(source), target_path=str(target), img_path=str(source))
            found.append(dict(**paths, joined=self.joined))
        self._check_indices(len(found))
        return found

    def _check_indices(self, count: int) -> None:
        chosen: Any = self._indices
        if chosen is None:
            return
        needed = abs(chosen) if isinstance(chosen, int) else max(chosen, default=-1) + 1
        if needed > count:
            raise UsageError(
                f'there are {count} pairs in {self.data_root}, but indices names {needed} of them; are all files there?'
            )
        if chosen == count:
            # mmengine takes a number for less than all.
            self._indices = None

    def _by_name(self, side: str) -> dict[str, Path]:
        """The images of a side by their path below its folder, without the ending."""
        folder, suffix = Path(self.data_prefix[side]), self.suffix.get(side)
        found: dict[str, Path] = {}
        paths = [path for path in images_below(folder) if suffix is None or path.name.endswith(suffix)]
        if not paths:
            raise UsageError(
                f'no {side} images in {folder.absolute()} end with {suffix!r} (suffix.{side}), though there are others'
            )
        for path in paths:
            name = path.relative_to(folder).as_posix()
            name = name[: -len(suffix)] if suffix else name[: -len(path.suffix)]
            if name in found:
                raise UsageError(
                    f'{found[name]} and {path.name} have the same name, so which one is the {side} is not clear: say '
                    f'how its files end, suffix.{side}, e.g. {path.suffix}'
                )
            found[name] = path
        return found

    def _where(self, side: str) -> str:
        suffix = self.suffix.get(side)
        return f'{Path(self.data_prefix[side]).absolute()}{f" (*{suffix})" if suffix else ""}'

    def _check_size(self, source: Path, target: Path) -> None:
        """Both sides of the same size; only the headers of the files are read."""
        width, height = _size(source)
        if self.joined and width % 2:
            raise UsageError(
                f'{source.absolute()} has {width}x{height} pixels (width x height); with joined={self.joined!r} its '
                f'halves are the pair, so the width has to be even'
            )
        if not self.joined and _size(target) != (width, height):
            other = 'x'.join(map(str, _size(target)))
            raise UsageError(
                f'the images of a pair have the same size, but {source.absolute()} has {width}x{height} pixels (width '
                f'x height) and {target.absolute()} {other}; scale one of them'
            )


def _size(path: Path) -> tuple[int, int]:
    """Width and height, as the image is looked at."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION) in _TURNED
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f'{path.absolute()} cannot be read as an image: {error}') from None
    return (height, width) if is_turned else (width, height)
