"""Which implementation of the passes is used.

``'auto'``, the default, takes Triton on CUDA where Triton is installed, the native loops on the CPU where they were
compiled, and the composed passes elsewhere. The environment variable ``MMNORM_BACKEND`` or :func:`set_backend` force
one, to find out whether it is at fault. What one cannot do ('native' another device or float16) the composed
passes do.
"""

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor

from ..version import is_older
from . import closed_form, composed, native_coefficients, native_passes

# Before it, the names of arguments that are not to be specialized for meant nothing.
OLDEST_TRITON = (3, 0)
BACKENDS = ('auto', 'reference', 'composed', 'native', 'triton')

_NEEDS = {
    'triton': 'the package triton, 3.0 or newer, which is not installed',
    'native': 'the compiled module mmnorm._C, which is missing or does not load (install mmnorm again, with '
    '--no-build-isolation and a C++ compiler)',
}


def has_native() -> bool:
    """Whether the loops for the CPU are compiled, for this PyTorch."""
    return native_passes._C is not None


@cache
def has_triton() -> bool:
    """Whether the package triton is installed, and new enough."""
    return find_spec('triton') is not None and not is_older(import_module('triton').__version__, OLDEST_TRITON)


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f'{source} must be one of {", ".join(BACKENDS)}, got {name!r}')
    if (name == 'triton' and not has_triton()) or (name == 'native' and not has_native()):
        raise RuntimeError(f"{source} {name!r} needs {_NEEDS[name]}; use 'auto'")
    return name


_backend = _checked(os.environ.get('MMNORM_BACKEND', 'auto'), 'environment variable MMNORM_BACKEND')


def set_backend(name: str) -> str:
    """Force an implementation of the passes over the data, in this process.

    Args:
        name: 'auto' (the default), 'reference' (plain operators and autograd), 'composed' (PyTorch's own
            kernels), 'native' (compiled loops for the CPU) or 'triton'.

    Returns:
        The one that was set before, to return to.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If it is 'triton' and Triton is not installed, or 'native' and the loops are not compiled.
    """
    global _backend
    _checked(name, 'backend')
    previous, _backend = _backend, name
    return previous


def get_backend() -> str:
    """The backend that is set; see :func:`set_backend`."""
    return _backend


def _uses_native(x: Tensor) -> bool:
    return _backend in ('auto', 'native') and x.is_cpu and x.dtype in native_passes.DTYPES and has_native()


def _uses_triton(x: Tensor) -> bool:
    return _backend == 'triton' or (_backend == 'auto' and x.is_cuda and has_triton())


def passes(x: Tensor) -> ModuleType:
    """The module whose passes take ``x``."""
    if _uses_triton(x):
        from . import triton_passes

        return triton_passes
    return native_passes if _uses_native(x) else composed


def forms(x: Tensor) -> ModuleType | None:
    """The module whose closed forms go with those passes; None where autograd is as good."""
    if _uses_triton(x):
        from . import triton_coefficients

        return triton_coefficients
    if _uses_native(x):
        return native_coefficients
    return closed_form if x.is_cpu else None
