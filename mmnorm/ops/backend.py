"""Which implementation of the passes is used.

``'auto'``, the default, takes Triton on CUDA where Triton is installed, and the composed passes elsewhere. The
environment variable ``MMNORM_BACKEND`` or :func:`set_backend` force one, to find out whether it is at fault.
"""

import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor

from . import closed_form, composed

BACKENDS = ('auto', 'reference', 'composed', 'triton')


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f'{source} must be one of {", ".join(BACKENDS)}, got {name!r}')
    return name


_backend = _checked(os.environ.get('MMNORM_BACKEND', 'auto'), 'environment variable MMNORM_BACKEND')


def set_backend(name: str) -> str:
    """Force an implementation of the passes over the data, in this process.

    Args:
        name: 'auto' (the default), 'reference' (plain operators and autograd), 'composed' (native kernels of PyTorch)
            or 'triton'.

    Returns:
        The one that was set before, to return to.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If it is 'triton' and Triton is not installed.
    """
    global _backend
    _checked(name, 'backend')
    if name == 'triton' and not has_triton():
        raise RuntimeError("the backend 'triton' needs the package triton, which is not installed; use 'auto'")
    previous, _backend = _backend, name
    return previous


def get_backend() -> str:
    """The backend that is set; see :func:`set_backend`."""
    return _backend


@cache
def has_triton() -> bool:
    """Whether the package triton is installed."""
    return find_spec('triton') is not None


def _uses_triton(x: Tensor) -> bool:
    return _backend == 'triton' or (_backend == 'auto' and x.is_cuda and has_triton())


def passes(x: Tensor) -> ModuleType:
    """The module whose passes take ``x``."""
    if _uses_triton(x):
        from . import triton_passes

        return triton_passes
    return composed


def forms(x: Tensor) -> ModuleType | None:
    """The module whose closed forms go with those passes; None where autograd is as good."""
    if _uses_triton(x):
        from . import triton_coefficients

        return triton_coefficients
    return closed_form if x.is_cpu else None
