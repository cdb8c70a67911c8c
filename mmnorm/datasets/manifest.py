"""What a layout's folder was written with, and whether a folder may be written or replaced."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

MANIFEST_NAME = 'digits.json'
FORMAT_VERSION = 1


class LayoutConflictError(Exception):
    """A folder holds something that may not be replaced; the message says what and how to go on."""


def already_written(root: Path, parameters: dict, overwrite: bool = False) -> bool:
    """Whether a folder already holds the data asked for.

    Args:
        root: The layout's folder.
        parameters: What determines the data; JSON values.
        overwrite: Whether data this module wrote may be replaced.

    Returns:
        True if nothing has to be written; false if the data is absent, or present and to be replaced.

    Raises:
        LayoutConflictError: If the folder holds other data than asked for and ``overwrite`` is false, or holds
            files that :func:`publish` did not write.
    """
    if not root.exists():
        _refuse_file_among_parents(root)
        return False
    if not root.is_dir():
        raise LayoutConflictError(f'{root} is a file, expected a folder; move it away or choose another --out')
    if not any(root.iterdir()):
        return False
    manifest = _read_manifest(root)
    present = _files_below(root)
    if overwrite:
        _refuse_foreign(root, present - set(manifest['files']) - {MANIFEST_NAME})
        return False
    differences = [
        f'{key} is {manifest["parameters"].get(key)!r} there and {value!r} here'
        for key, value in parameters.items()
        if manifest['parameters'].get(key) != value
    ]
    if manifest['format_version'] != FORMAT_VERSION:
        differences.append(f'format version is {manifest["format_version"]!r} there and {FORMAT_VERSION!r} here')
    missing = sorted(set(manifest['files']) - present)
    if missing:
        differences.append(f'{_some_of(missing)} missing there')
    if differences:
        raise LayoutConflictError(
            f'{root} already holds other data: {"; ".join(differences)}. '
            'Pass --overwrite to replace it, or choose another --out'
        )
    return True


def publish(root: Path, parameters: dict, write: Callable[[Path], None]) -> None:
    """Write a layout's folder in whole: an interrupted run leaves what was there before.

    Args:
        root: The layout's folder; what it holds is replaced, so ask :func:`already_written` first.
        parameters: What determines the data; JSON values.
        write: Writes the data into the empty folder it is given.
    """
    root = root.resolve()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        draft = Path(scratch) / root.name
        draft.mkdir()
        write(draft)
        manifest = {'format_version': FORMAT_VERSION, 'parameters': parameters, 'files': sorted(_files_below(draft))}
        (draft / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + '\n', encoding='utf-8')
        if root.exists():
            root.rename(Path(scratch) / 'replaced')
        draft.rename(root)


def _read_manifest(root: Path) -> dict:
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise LayoutConflictError(
            f'{root} is not empty and has no {MANIFEST_NAME}, so this tool did not write it and will not touch it; '
            'move it away or choose another --out'
        )
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
        complete = isinstance(manifest['parameters'], dict) and isinstance(manifest['files'], list)
        complete = complete and 'format_version' in manifest
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise LayoutConflictError(
            f'{path} is not a file this tool wrote, so what lies beside it will not be touched; '
            f'move {root} away or choose another --out'
        )
    return manifest


def _files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob('*') if path.is_symlink() or not path.is_dir()}


def _refuse_foreign(root: Path, foreign: set[str]) -> None:
    if foreign:
        raise LayoutConflictError(
            f'{root} holds {_some_of(sorted(foreign))} that this tool did not write and --overwrite would delete; '
            'move them away or choose another --out'
        )


def _refuse_file_among_parents(root: Path) -> None:
    nearest = next(parent for parent in root.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise LayoutConflictError(f'{nearest} is a file, expected a folder; move it away or choose another --out')


def _some_of(names: list[str]) -> str:
    shown = ', '.join(names[:3])
    return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'
