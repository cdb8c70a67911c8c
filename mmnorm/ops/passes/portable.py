"""The passes as loops of our own for the CPU that know no PyTorch: ``mmnorm/_loops.so``, from ``mmnorm/csrc``.

They are the loops of :mod:`.native`, behind an interface of plain C, which takes addresses and sizes; so one library
serves every version of PyTorch and of Python. What is missing is what lies between the passes: the nodes of autograd
are those in Python, and the steps of the coefficients are plain operators.

Every address that goes down is of a tensor that has been looked at here: its device, type, shape and memory format.
"""

import ctypes
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..activation import Activation, slope_of
from ..compat import openmp_functions
from .reference import accumulation_dtype

# Of the library's functions as they are called here; to be raised with every change.
INTERFACE = 1
LIBRARY = Path(__file__).parents[2] / '_loops.so'

# The library's numbers for types, core::Type.
_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
DTYPES = tuple(_CODES)

_INT, _SIZE, _POINTER, _DOUBLE = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
# Samples, channels, positions, whether it is contiguous, type.
_SHAPE = [_SIZE, _SIZE, _SIZE, _INT, _INT]
_NUMBERS = [_POINTER, _INT]
_ARGUMENTS: dict[str, list[type]] = {
    'moments': [_POINTER] * 3,
    'affine': [_POINTER, _POINTER, *_NUMBERS * 2, _DOUBLE, _POINTER],
    'affine_add': [_POINTER, _POINTER, *_NUMBERS * 2, _POINTER, _DOUBLE, _POINTER, _POINTER],
    'plane_sums': [_POINTER, _POINTER, _POINTER, *_NUMBERS * 2, _DOUBLE, _POINTER, _POINTER],
    'plane_sums_add': [_POINTER, _POINTER, _POINTER, _POINTER, _DOUBLE, _POINTER, _POINTER, _POINTER],
    'slopes_of': [_POINTER, _DOUBLE, _POINTER],
    'input_gradient': [_POINTER, _POINTER, _POINTER, *_NUMBERS * 4, _DOUBLE, _POINTER],
}


def _load() -> ctypes.CDLL | None:
    if not LIBRARY.is_file():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        found = library.mmnorm_interface()
        if found != INTERFACE:
            raise OSError(f'{LIBRARY} is of another version of mmnorm')
        for name, arguments in _ARGUMENTS.items():
            getattr(library, f'mmnorm_{name}').argtypes = [_INT, *_SHAPE, *arguments]
    except (OSError, AttributeError) as error:
        warnings.warn(f'the portable loops are not used: {error}. Install mmnorm again.', stacklevel=2)
        return None
    library.mmnorm_bits.argtypes = [*_SHAPE, _POINTER, _POINTER]
    library.mmnorm_bits.restype = None
    library.mmnorm_instructions.restype = ctypes.c_char_p
    functions = openmp_functions()
    if functions is not None:
        library.mmnorm_use_threads.argtypes = [_POINTER] * 3
        library.mmnorm_use_threads.restype = None
        library.mmnorm_use_threads(*functions)
    return library


@cache
def load() -> ctypes.CDLL | None:
    """The library; None where there is none, or none for this processor and version of mmnorm."""
    return _load()


@cache
def _function(name: str) -> Callable:
    library = load()
    if library is None:
        raise RuntimeError(f'mmnorm: {LIBRARY} is missing or does not load; install mmnorm again, with a C++ compiler')
    function = getattr(library, f'mmnorm_{name}')

    def call(*args) -> None:
        if function(torch.get_num_threads(), *args) != 0:
            raise MemoryError(f'mmnorm: no memory for the numbers of the planes in {name}')

    return call


def instructions() -> str:
    """The vector instructions that are used: 'avx512', 'avx2' or 'default'."""
    library = load()
    assert library is not None
    return library.mmnorm_instructions().decode()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`.reference.moments`.

    The mean is in float64, the variance in the type of :func:`.reference.accumulation_dtype`.

    Raises:
        ValueError: As in all four, if a tensor is not what the loops take.
    """
    shape = _shape(x)
    mean = torch.empty(x.shape[:2], dtype=torch.float64)
    var = torch.empty(x.shape[:2], dtype=accumulation_dtype(x.dtype))
    _function('moments')(*shape, x.data_ptr(), mean.data_ptr(), var.data_ptr())
    return mean, var


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None = None) -> Tensor:
    """See :func:`.reference.affine`."""
    shape = _shape(x)
    scale, shift = _numbers(scale, 'scale', x), _numbers(shift, 'shift', x)
    y = torch.empty_like(x)
    _function('affine')(
        *shape, x.data_ptr(), _mean(mean, x), *_address(scale), *_address(shift), slope_of(activation), y.data_ptr()
    )
    return y


def affine_add(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor,
    activation: Activation | None,
    is_recorded: bool,
) -> tuple[Tensor, Tensor | None]:
    """See :meth:`.interface.FusedPasses.affine_add`."""
    shape = _shape(x)
    other = _values(residual, 'residual', x)
    scale, shift = _numbers(scale, 'scale', x), _numbers(shift, 'shift', x)
    y = torch.empty_like(x)
    bits = None
    if activation is not None and is_recorded:
        bits = torch.empty(_bit_shape(shape), dtype=torch.uint8)
    _function('affine_add')(
        *shape,
        x.data_ptr(),
        _mean(mean, x),
        *_address(scale),
        *_address(shift),
        other,
        slope_of(activation),
        y.data_ptr(),
        None if bits is None else bits.data_ptr(),
    )
    return y, bits


def plane_sums(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation | None = None,
) -> tuple[Tensor, Tensor]:
    """See :meth:`.interface.FusedPasses.plane_sums`."""
    shape = _shape(x)
    numbers: list[Tensor] = []
    if activation is not None:
        assert scale is not None
        assert shift is not None
        numbers = [_numbers(scale, 'scale', x), _numbers(shift, 'shift', x)]
    total, product = torch.empty((2, *x.shape[:2]), dtype=accumulation_dtype(x.dtype))
    addresses = [_address(t) for t in numbers] or [(0, 0)] * 2
    _function('plane_sums')(
        *shape,
        _values(dy, 'dy', x),
        x.data_ptr(),
        _mean(mean, x),
        *addresses[0],
        *addresses[1],
        slope_of(activation),
        total.data_ptr(),
        product.data_ptr(),
    )
    return total, product


def plane_sums_add(
    dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`.interface.FusedPasses.plane_sums_add`."""
    shape = _shape(x)
    total, product = torch.empty((2, *x.shape[:2]), dtype=accumulation_dtype(x.dtype))
    dz = torch.empty_like(x)
    _function('plane_sums_add')(
        *shape,
        _values(dy, 'dy', x),
        x.data_ptr(),
        _mean(mean, x),
        _bits(kept, shape),
        slope_of(activation),
        total.data_ptr(),
        product.data_ptr(),
        dz.data_ptr(),
    )
    return total, product, dz


def slopes_of(bits: Tensor, x: Tensor, slope: float) -> Tensor:
    """See :meth:`.interface.FusedPasses.slopes_of`."""
    shape = _shape(x)
    slopes = torch.empty_like(x)
    _function('slopes_of')(*shape, _bits(bits, shape), slope, slopes.data_ptr())
    return slopes


def input_gradient(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
    shift: Tensor | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """See :meth:`.interface.FusedPasses.input_gradient`."""
    shape = _shape(x)
    scale, slope, offset = _numbers(scale, 'scale', x), _numbers(slope, 'slope', x), _numbers(offset, 'offset', x)
    # Not read without an activation.
    shift = scale if shift is None else _numbers(shift, 'shift', x)
    dx = torch.empty_like(x)
    _function('input_gradient')(
        *shape,
        _values(dy, 'dy', x),
        x.data_ptr(),
        _mean(mean, x),
        *_address(scale),
        *_address(shift),
        *_address(slope),
        *_address(offset),
        slope_of(activation),
        dx.data_ptr(),
    )
    return dx


def _shape(x: Tensor) -> tuple[int, int, int, bool, int]:
    """What the library is told of x."""
    code = _CODES.get(x.dtype)
    if code is None or x.dim() < 2 or not _is_dense(x) or x.numel() == 0:
        raise _unexpected('x', x, _INPUT)
    contiguous = x.is_contiguous()
    if not contiguous and not _is_channels_last(x):
        raise _unexpected('x', x, _INPUT)
    samples, channels = x.shape[:2]
    return samples, channels, x.numel() // (samples * channels), contiguous, code


_INPUT = 'a tensor (N, C, *) of float32, float64 or bfloat16 on the CPU, contiguous or channels_last, that is not empty'


def _values(t: Tensor, name: str, x: Tensor) -> int:
    """The address of another tensor like x."""
    if (
        t.dtype != x.dtype
        or t.shape != x.shape
        or not _is_dense(t)
        or not (t.is_contiguous() if x.is_contiguous() else _is_channels_last(t))
    ):
        raise _unexpected(name, t, f'a tensor of the shape, type and memory format of x ({_describe(x)})')
    return t.data_ptr()


def _mean(mean: Tensor, x: Tensor) -> int:
    if mean.dtype != torch.float64 or mean.shape != x.shape[:2] or not _is_dense(mean) or not mean.is_contiguous():
        raise _unexpected('mean', mean, f'a contiguous tensor of float64 on the CPU, of shape {tuple(x.shape[:2])}')
    return mean.data_ptr()


def _bit_shape(shape: tuple[int, int, int, bool, int]) -> tuple[int, int]:
    library = load()
    assert library is not None
    rows, bytes_ = ctypes.c_int64(), ctypes.c_int64()
    library.mmnorm_bits(*shape, ctypes.byref(rows), ctypes.byref(bytes_))
    return rows.value, bytes_.value


def _bits(bits: Tensor, shape: tuple[int, int, int, bool, int]) -> int:
    expected = _bit_shape(shape)
    if bits.dtype != torch.uint8 or bits.shape != expected or not _is_dense(bits) or not bits.is_contiguous():
        raise _unexpected('bits', bits, f'a contiguous tensor of uint8 on the CPU, of shape {expected}')
    return bits.data_ptr()


def _numbers(t: Tensor, name: str, x: Tensor) -> Tensor:
    """Numbers of planes, one after another in memory, in a type that the loops read. To be held while they are read."""
    if t.shape != x.shape[:2] or not t.is_floating_point() or not t.is_cpu or t.layout != torch.strided:
        raise _unexpected(name, t, f'a dense floating-point tensor on the CPU, of shape {tuple(x.shape[:2])}')
    if t.dtype != torch.float64 and t.dtype != torch.float32:
        t = t.double()
    if t.is_neg() or not t.is_contiguous():
        t = t.resolve_neg().contiguous()
    if not _is_dense(t):
        raise _unexpected(name, t, f'a dense floating-point tensor on the CPU, of shape {tuple(x.shape[:2])}')
    return t


def _address(t: Tensor) -> tuple[int, int]:
    return t.data_ptr(), _CODES[t.dtype]


def _is_dense(t: Tensor) -> bool:
    """Whether ``t`` lies in the CPU's memory, as it is."""
    return t.is_cpu and t.layout == torch.strided and not t.is_nested and not t.is_neg() and _has_memory(t)


def _has_memory(t: Tensor) -> bool:
    # Where a storage has been emptied, a view's address is not 0 but its offset.
    return t.data_ptr() != 0 and (t.storage_offset() == 0 or t.untyped_storage().nbytes() > 0)


def _is_channels_last(x: Tensor) -> bool:
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def _unexpected(name: str, t: Tensor, expected: str) -> ValueError:
    return ValueError(f'mmnorm: {name}: expected {expected}, got {_describe(t)}')


def _describe(t: Tensor) -> str:
    text = f'{t.dtype} on {t.device}, {t.layout}'
    if t.is_nested:
        return f'{text}, nested'
    text += f', of shape {tuple(t.shape)}'
    if t.layout != torch.strided:
        return text
    text += f' and strides {t.stride()}'
    if t.is_neg():
        return f'{text}, a negative view (call resolve_neg() first)'
    return f'{text}, without memory' if t.is_cpu and t.numel() > 0 and not _has_memory(t) else text
