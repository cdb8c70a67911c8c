"""Checkpoints: the one way in and the one way out."""

import argparse
import os.path as osp
import tarfile
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UsageError
from .atomic import write_atomically
from .contents import NotData
from .layouts import placing, read_series, read_zip

# Where the weights lie: OpenMMLab and most others, Detectron, the ILM paper's script.
CONTAINERS = ('state_dict', 'model', 'net')


def add_trust_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The option of all tools that read checkpoints."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='for checkpoints of your own that hold more than data: let them run code while they are read',
    )


def read_checkpoint(
    path: str, source: str | None = None, trust: bool = False, map_location='cpu', mmap: bool = False
) -> dict:
    """Read a checkpoint of PyTorch.

    Nothing is executed that it holds, by whatever version of PyTorch: tensors, numbers, texts, containers, NumPy arrays
    and what mmengine's Runner adds (its log, as :class:`.contents.LogBuffer`) are read, everything else is refused.

    Args:
        path: The file.
        source: Where it was given, for messages, e.g. 'load_from'.
        trust: Whether to leave it to torch.load, which runs whatever the file says.
        map_location: Where the tensors go, as torch.load takes it; None is where they were.
        mmap: Whether tensors stay in the file until they are used; it may not change meanwhile.

    Returns:
        What it holds.

    Raises:
        UsageError: If the file is missing, damaged, no checkpoint, or needs code to be run.
    """
    where = osp.abspath(path) + (f' (from {source})' if source else '')
    remedy = 'Give one that is whole, e.g. the one saved before it.'
    if not osp.isfile(path):
        raise UsageError(f'checkpoint not found: {where}. Give the path of an existing file.')
    try:
        is_zip = _check_kind(path, where, remedy, trust)
        if trust:
            checkpoint = torch.load(path, map_location, mmap=mmap and is_zip, weights_only=False)
        elif is_zip:
            checkpoint = read_zip(path, placing(map_location), mmap)
        else:
            checkpoint = read_series(path, placing(map_location))
    except UsageError:
        raise
    except NotData as error:
        raise UsageError(
            f'{where} is not read: it holds more than data, namely {_say(error)}, and reading that could run code that '
            f'comes with the file. If it is your own, or you trust whoever made it, give --trust-checkpoint; else ask '
            f'for a file with the weights alone, torch.save(model.state_dict(), PATH).'
        ) from None
    except EOFError:
        raise UsageError(f'checkpoint is truncated: {where}, of {osp.getsize(path)} bytes. {remedy}') from None
    except Exception as error:  # noqa: BLE001  damage can show in any way
        raise UsageError(f'checkpoint cannot be read: {where}: {_say(error)}. {remedy}') from None
    if not isinstance(checkpoint, dict):
        raise UsageError(f'no weights in {where}: expected a dict, got a {type(checkpoint).__name__}.')
    return checkpoint


def _say(error: Exception) -> str:
    """The text of an error, of which the file may have written a part: in one line, nothing that moves a terminal."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text[:200].encode('unicode_escape').decode()


def _check_kind(path: str, where: str, remedy: str, trust: bool) -> bool:
    """Refuse what shows at once that it is no checkpoint; otherwise whether it is a zip file."""
    with open(path, 'rb') as file:
        head = file.read(4)
    if not head:
        raise UsageError(f'checkpoint is empty: {where}. {remedy}')
    if zipfile.is_zipfile(path):
        return True
    if head == b'PK\x03\x04':
        # The table of contents is at the end.
        raise UsageError(f'checkpoint is truncated: {where}, of {osp.getsize(path)} bytes, has no end. {remedy}')
    if trust:
        return False
    if tarfile.is_tarfile(path):
        raise UsageError(f'{where} is of the layout before PyTorch 0.2 (tar). --trust-checkpoint lets torch.load try.')
    # Otherwise it is a series of pickles.
    if head[:1] != b'\x80':
        raise UsageError(f'not a checkpoint: {where} was not written by torch.save.')
    return False


def read_weights(path: str, trust: bool = False, mmap: bool = False) -> tuple[dict[str, Tensor], dict]:
    """Read the weights of a checkpoint, whoever's.

    Args:
        path: The file.
        trust: As for :func:`read_checkpoint`.
        mmap: As there.

    Returns:
        The state dict, and what else the file holds.

    Raises:
        UsageError: As :func:`read_checkpoint`, and if there is no state dict in it.
    """
    checkpoint = read_checkpoint(path, trust=trust, mmap=mmap)
    for name in CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            return check_tensors(path, checkpoint[name]), {k: v for k, v in checkpoint.items() if k != name}
    return check_tensors(path, checkpoint), {}


def check_tensors(path: str, state_dict: Mapping) -> dict[str, Tensor]:
    """A state dict of ``path`` as a dict, if it is one.

    Raises:
        UsageError: If it is empty, or holds anything but tensors by name.
    """
    strange = [key for key, value in state_dict.items() if not isinstance(value, Tensor) or not isinstance(key, str)]
    if strange or not state_dict:
        found = f'{strange[0]!r} is a {type(state_dict[strange[0]]).__name__}' if strange else 'it is empty'
        raise UsageError(
            f'{path} has no state dict: {found}. Expected tensors by name, at the top or under {", ".join(CONTAINERS)}.'
        )
    return dict(state_dict)


def check_output(path: str, force: bool) -> None:
    """Look whether ``path`` can be written, before any work is done.

    Raises:
        UsageError: If the file exists and ``force`` is not given, or its folder is missing.
    """
    if osp.exists(path) and not force:
        raise UsageError(f'{path} exists. Give --force to overwrite it, or another name.')
    folder = osp.dirname(osp.abspath(path))
    if osp.isdir(path) or not osp.isdir(folder):
        raise UsageError(f'{path} cannot be written: {path if osp.isdir(path) else folder} is not a file in a folder')


def write_checkpoint(checkpoint: dict, path: str) -> None:
    """Write a checkpoint; the file is complete, or as it was before.

    Raises:
        UsageError: If the disk does not take it.
    """
    try:
        write_atomically(path, lambda file: torch.save(checkpoint, file))
    except OSError as error:
        raise UsageError(f'{path} cannot be written: {error}. What was there before is still there.') from None
