"""The passes as loops of our own for the CPU (``mmnorm/csrc``), where they were compiled when mmnorm was installed.

Each pass reads and writes what it must, once, in either memory format. Planes with a large mean need nothing special
here: the mean is always subtracted first.
"""

import importlib
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ..activation import NO_ACTIVATION
from . import portable

# Of the compiled functions as they are called here; to be raised with every change.
INTERFACE = 5


def what_is_slower() -> str:
    """What layers take on a CPU without the compiled module: see docs/performance.md."""
    if portable.load() is None:
        return 'layers take a third longer on a CPU, three to four times as long on small maps'
    return 'layers run in mmnorm/_loops.so on a CPU, and take a quarter longer, three times as long on small maps'


def _load() -> ModuleType | None:
    try:
        module = importlib.import_module('mmnorm._C')
        if getattr(module, 'INTERFACE', 0) != INTERFACE:
            raise ImportError('it is of another version of mmnorm')
    except ImportError as error:
        # An undefined symbol is what another PyTorch than the one it was compiled with looks like.
        missing = isinstance(error, ModuleNotFoundError)
        warnings.warn(
            f'mmnorm._C is not {"compiled" if missing else "used"}, so {what_is_slower()}'
            f'{"" if missing else f": {error}"}. Install mmnorm again, with --no-build-isolation (and --no-cache-dir '
            f'--force-reinstall --no-deps) and a C++ compiler, to compile it for PyTorch {torch.__version__}.',
            stacklevel=2,
        )
        return None
    return module


@cache
def load() -> ModuleType | None:
    """The compiled module; None where there is none for this PyTorch, which is said once, at the first use on a CPU."""
    return _load()


@cache
def compiled() -> ModuleType:
    """The compiled module, for what runs only where :func:`load` has found it."""
    module = load()
    assert module is not None
    return module


DTYPES = portable.DTYPES


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.moments`.

    The mean is in float64, the variance in the type of :func:`.reference.accumulation_dtype`.
    """
    return compiled().moments(x)


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See :func:`.reference.affine`."""
    return compiled().affine(x, mean, scale, shift, NO_ACTIVATION)


def plane_sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.plane_sums`."""
    return compiled().plane_sums(dy, x, mean, mean, mean, NO_ACTIVATION)


def input_gradient(dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """See :func:`.reference.input_gradient`."""
    return compiled().input_gradient(dy, x, mean, scale, scale, slope, offset, 1, 1, NO_ACTIVATION)
