"""Reading and writing checkpoints: nothing is executed that a file holds, and nothing is left half written."""

import os
import os.path as osp
import re
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from ..errors import UsageError

# Where the weights lie: OpenMMLab and most others, Detectron, the ILM paper's script.
CONTAINERS = ('state_dict', 'model', 'net')


def read_checkpoint(path: str) -> tuple[dict[str, Tensor], dict]:
    """Read a checkpoint with PyTorch's loader of weights alone.

    Args:
        path: The file.

    Returns:
        The state dict, and what else the file holds.

    Raises:
        UsageError: If the file is missing, broken, no checkpoint, or needs code to be run.
    """
    if not osp.isfile(path):
        raise UsageError(f'checkpoint not found: {osp.abspath(path)}. Give the path of an existing file.')
    try:
        with _tensors_and_logs():
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # noqa: BLE001  a file of another kind can fail in any way
        raise UsageError(_explain(path, error)) from None
    if not isinstance(checkpoint, Mapping):
        raise UsageError(f'{path} holds a {type(checkpoint).__name__}; expected a checkpoint with a state_dict')
    for name in CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            return _check_tensors(path, checkpoint[name]), {k: v for k, v in checkpoint.items() if k != name}
    return _check_tensors(path, checkpoint), {}


def _tensors_and_logs():
    """Besides tensors, a checkpoint of mmengine's Runner has the buffers of the log; those are let in too."""
    try:
        import numpy as np
        from mmengine.logging import HistoryBuffer
    except ImportError:
        return nullcontext()
    if not hasattr(torch.serialization, 'safe_globals'):
        return nullcontext()
    core = np._core if hasattr(np, '_core') else np.core
    arrays = [core.multiarray._reconstruct, core.multiarray.scalar, np.ndarray, np.dtype]
    dtypes = [type(np.dtype(kind)) for kind in (np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64)]
    # HistoryBuffer refers to its own methods, by getattr; what it returns is not called on reading.
    return torch.serialization.safe_globals([getattr, slice, HistoryBuffer, *arrays, *dtypes])


def _explain(path: str, error: Exception) -> str:
    blocked = re.search(r'(?:GLOBAL|Unsupported class) ([\w.]+)', str(error))
    if blocked is None:
        reason = str(error).strip().split('\n')[0][:200] or type(error).__name__
        # PyTorch's advice to read the file without weights_only helps nobody whose file is none of its own.
        reason = '' if 'weights_only' in reason else f' ({reason})'
        return f'{path} cannot be read: it is truncated, or no PyTorch checkpoint{reason}. Fetch or save it again.'
    return (
        f'{path} holds more than tensors ({blocked[1]}), and reading that means running code from the file, which is '
        f"not done here. If you trust it, save its weights alone first: torch.save({{'state_dict': "
        f"torch.load(PATH, map_location='cpu', weights_only=False)['state_dict']}}, NEW_PATH)"
    )


def _check_tensors(path: str, state_dict: Mapping) -> dict[str, Tensor]:
    strange = [name for name, value in state_dict.items() if not isinstance(value, Tensor)]
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
        _write(checkpoint, path)
    except OSError as error:
        raise UsageError(f'{path} cannot be written: {error}. What was there before is still there.') from None


def _write(checkpoint: dict, path: str) -> None:
    handle, partial = tempfile.mkstemp(dir=osp.dirname(osp.abspath(path)), prefix=f'.{osp.basename(path)}.')
    try:
        with os.fdopen(handle, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets nobody else read; a checkpoint has the rights of any new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
