"""Which implementation takes a tensor, and what each can do.

``'auto'``, the default, takes Triton on CUDA where Triton is installed, on the CPU the native loops where they were
compiled for this PyTorch, else the portable ones, and the composed passes elsewhere. The environment variable
``MMNORM_BACKEND`` or :func:`set_backend` force one, to find out whether it is at fault. What one cannot do ('native'
and 'portable' another device or float16) the composed passes do; what cannot go through kernels at all (graphs that are
traced or compiled, transforms of functions, empty tensors) is done by the reference, plain operators.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ..version import is_older
from . import nodes
from .activation import ACTIVATIONS
from .compat import is_compiling, is_forward_ad, is_transformed
from .passes import native, portable, reference
from .passes.composed import ComposedPasses

# Kernels of earlier ones cannot index tuples of constants.
OLDEST_TRITON = (3, 4)
BACKENDS = ('auto', 'reference', 'composed', 'native', 'portable', 'triton')

_NEEDS = {
    'triton': 'the package triton, 3.4 or newer, which is not installed',
    'native': 'the compiled module mmnorm._C, which is missing or does not load (install mmnorm again, with '
    '--no-build-isolation and a C++ compiler)',
    'portable': 'the compiled library mmnorm/_loops.so, which is missing or does not load (install mmnorm again, with '
    'a C++ compiler)',
}


@dataclass(frozen=True)
class Backend:
    """An implementation.

    Attributes:
        name: One of :data:`BACKENDS`.
        moments: x, and what of the rest goes into its passes (:class:`.nodes.Fused`), to mean and variance of its
            planes, (N, C), and what ``affine`` is to be given besides.
        affine: x, mean, scale, shift, the latter, and what goes into the pass, to ``scale * (x - mean) + shift`` with
            that. Both are differentiable.
        activations: Names of those that can go into its passes; a sum can, too, where there are any.
        kernels: Its functions for steps of the coefficients, by the names of :mod:`.coefficients`; plain operators do
            the others.
    """

    name: str
    moments: Callable
    affine: Callable
    activations: frozenset[str] = frozenset()
    kernels: Mapping[str, Callable] = field(default_factory=dict)


@cache
def _composed() -> Backend:
    return Backend('composed', lambda x, _: nodes.moments(x, ComposedPasses()), nodes.affine)


@cache
def _native() -> Backend:
    from .coefficients import native as kernels

    activations = frozenset({'relu', 'leaky_relu'})
    return Backend('native', nodes.native_moments, nodes.native_affine, activations, kernels.KERNELS)


@cache
def _portable() -> Backend:
    def moments(x: Tensor, fused: nodes.Fused) -> tuple[Tensor, Tensor, tuple]:
        return nodes.moments(x, portable, fused)

    return Backend('portable', moments, nodes.affine, frozenset({'relu', 'leaky_relu'}))


@cache
def _triton() -> Backend:
    from .coefficients.triton import KERNELS
    from .passes import triton

    def moments(x: Tensor, fused: nodes.Fused) -> tuple[Tensor, Tensor, tuple]:
        return nodes.moments(x, triton, fused)

    return Backend('triton', moments, nodes.affine, frozenset(ACTIVATIONS), KERNELS)


def has_native() -> bool:
    """Whether the loops for the CPU are compiled, for this PyTorch."""
    return native.load() is not None


def has_portable() -> bool:
    """Whether the loops for the CPU are compiled that serve any PyTorch."""
    return portable.load() is not None


@cache
def has_triton() -> bool:
    """Whether the package triton is installed, and new enough."""
    return find_spec('triton') is not None and not is_older(import_module('triton').__version__, OLDEST_TRITON)


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f'{source} must be one of {", ".join(BACKENDS)}, got {name!r}')
    is_there: dict[str, Callable[[], bool]] = {'triton': has_triton, 'native': has_native, 'portable': has_portable}
    if name in is_there and not is_there[name]():
        raise RuntimeError(f"{source} {name!r} needs {_NEEDS[name]}; use 'auto'")
    return name


_forced = _checked(os.environ.get('MMNORM_BACKEND', 'auto'), 'environment variable MMNORM_BACKEND')
REFERENCE = Backend('reference', lambda x, _: (*reference.moments(x), None), lambda *args: reference.affine(*args[:-2]))


def set_backend(name: str) -> str:
    """Force an implementation of the layers' steps, in this process.

    Args:
        name: 'auto' (the default), 'reference' (plain operators and autograd), 'composed' (PyTorch's own
            kernels), 'native' (compiled loops for the CPU), 'portable' (the same without PyTorch's C++ interface: nodes
            and coefficients in Python) or 'triton'.

    Returns:
        The one that was set before, to return to.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If it is 'triton' and Triton is not installed, or 'native' or 'portable' and those loops are not
            compiled.
    """
    global _forced
    _checked(name, 'backend')
    previous, _forced = _forced, name
    return previous


def get_backend() -> str:
    """The backend that is set; see :func:`set_backend`."""
    return _forced


def backend_for(x: Tensor) -> str:
    """What runs for a tensor: 'reference', 'composed', 'native', 'portable' or 'triton'.

    Args:
        x: Input of a layer.
    """
    return select(x).name


def select(x: Tensor) -> Backend:
    """The implementation that takes ``x``, the input of a layer."""
    if _forced == 'reference' or not is_eager(x):
        return REFERENCE
    if _forced == 'triton' or (_forced == 'auto' and x.is_cuda and has_triton()):
        return _triton()
    if x.is_cpu and x.dtype in native.DTYPES:
        if _forced in ('auto', 'native') and has_native():
            return _native()
        if _forced in ('auto', 'portable') and has_portable():
            return _portable()
    return _composed()


def kernel(name: str, mean: Tensor) -> Callable | None:
    """The function of a step of the coefficients that takes moments like ``mean``; None if plain operators do."""
    backend = select(mean)
    return None if backend is REFERENCE else backend.kernels.get(name)


def is_eager(x: Tensor) -> bool:
    """Whether kernels may be called by themselves: eager mode, real memory, no transform, no subclass, not empty."""
    return (
        # First: the compiler of 2.1 does not follow the next line.
        not is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and not x.is_meta
        and x.numel() > 0
        and not is_transformed()
        and not is_forward_ad()
        and not torch.jit.is_tracing()
    )
