"""What a checkpoint may hold, and how it is made from what stands in the pickle.

Each name that PyTorch, NumPy, mmengine and the containers of Python leave in a checkpoint has a function here, which
checks its arguments and returns data: nothing that could be called, or does more than hold what it was given. Whatever
is added has to be so too, for any arguments and any state.
"""

import math
import re
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


class NotData(Exception):
    """A pickle asks for more than data; the message says for what."""


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a function or class in a pickle, e.g. 'collections.OrderedDict'."""

    path: str


@dataclass(frozen=True, slots=True)
class Method:
    """The name of a function that mmengine keeps among its data, one of :data:`METHODS`."""

    path: str


@dataclass
class LogBuffer:
    """What was logged under one name: the data of mmengine's HistoryBuffer.

    Attributes:
        log_history: The values, a NumPy array (N,).
        count_history: Over how many iterations each is taken (N,).
        max_length: How many are kept.
    """

    log_history: object = field(default_factory=list)
    count_history: object = field(default_factory=list)
    max_length: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage of a tensor, in bytes, and the type of its elements."""

    data: torch.UntypedStorage
    dtype: torch.dtype


# mmengine's buffers of the log hold their statistics, and a OneCycle schedule how it anneals.
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
METHODS = frozenset(
    [f'{_HISTORY}.{name}' for name in ('min', 'max', 'current', 'mean')]
    + [f'{_ONE_CYCLE}.{name}' for name in ('_annealing_cos', '_annealing_linear')]
)

# How files say of what type a storage is, by a class of PyTorch that has no other use any more.
_TYPES_OF_STORAGES = {
    'Double': torch.float64,
    'Float': torch.float32,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Long': torch.int64,
    'Int': torch.int32,
    'Short': torch.int16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Bool': torch.bool,
    'ComplexDouble': torch.complex128,
    'ComplexFloat': torch.complex64,
}
STORAGES = {f'torch.{name}Storage': dtype for name, dtype in _TYPES_OF_STORAGES.items()}
STORAGES['torch.storage.UntypedStorage'] = torch.uint8
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def named(path: str) -> object | None:
    """What a name in a pickle stands for: a type of elements, a :class:`Method`, else the :class:`Name`.

    Args:
        path: Module and name, e.g. 'torch.float32'.

    Returns:
        That; None for a name that has no place in a checkpoint.
    """
    # Python 2 called it so, and torch.save writes for both.
    path = re.sub(r'^__builtin__\.', 'builtins.', path)
    # numpy 2 has moved what numpy 1 writes.
    path = re.sub(r'^numpy\.core\.', 'numpy._core.', path)
    if path in _DTYPES:
        return _DTYPES[path]
    if path in METHODS:
        return Method(path)
    return Name(path) if path in MAKERS or path in STORAGES or path in _NAMED_ONLY else None


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f'its pickle is damaged: {what}')


def _is_sizes(value) -> bool:
    return isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)


def _attribute(owner, name) -> Method:
    """The one use of getattr: methods are pickled so."""
    path = f'{describe(owner)}.{name}' if isinstance(name, str) else 'getattr'
    if not isinstance(owner, Name) or path not in METHODS:
        raise NotData(path)
    return Method(path)


def _encode(text, encoding) -> bytes:
    """torch.save writes bytes so."""
    _check(isinstance(text, str) and encoding in ('latin1', 'latin-1'), 'bytes')
    return text.encode('latin-1')


def _bytearray(data=b'', encoding='latin-1') -> bytearray:
    return bytearray(data if isinstance(data, bytes) else _encode(data, encoding))


def check_keys(keys: Iterable) -> None:
    """Refuse tuples in tuples in tuples: their hash would overflow the stack, or take for ever."""
    for key in keys:
        if type(key) is tuple:
            inner = [item for item in key if type(item) is tuple]
            _check(not any(type(item) is tuple for items in inner for item in items), 'a key of nested tuples')


def _items(kind: type) -> Callable:
    def make(items=()):
        _check(isinstance(items, list | tuple), f'the items of a {kind.__name__}')
        check_keys(items)
        return kind(items)

    return make


def _ordered_dict(items=()) -> OrderedDict:
    _check(isinstance(items, list | tuple), 'the items of an OrderedDict')
    _check(all(isinstance(item, list | tuple) and len(item) == 2 for item in items), 'the items of an OrderedDict')
    check_keys(key for key, _ in items)
    return OrderedDict(items)


def _numbers(kind: type) -> Callable:
    def make(*arguments):
        _check(all(item is None or type(item) in (int, float) for item in arguments), f'a {kind.__name__}')
        return kind(*arguments)

    return make


def _dict(items=None) -> dict:
    """A ConfigDict too: its data without its attributes."""
    _check(items is None or isinstance(items, dict), 'a dict')
    return dict(items or {})


def _counter(items=None) -> Counter:
    return Counter(_dict(items))


def _size(sizes) -> torch.Size:
    _check(_is_sizes(sizes), 'a size')
    return torch.Size(sizes)


def _device(kind, index=None) -> torch.device:
    _check(isinstance(kind, str) and (index is None or type(index) is int), 'a device')
    return torch.device(kind) if index is None else torch.device(kind, index)


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    _check(isinstance(storage, Storage) and _is_sizes((offset,)), 'a tensor without a storage')
    _check(_is_sizes(size) and _is_sizes(stride) and len(size) == len(stride), 'the sizes of a tensor')
    if hooks or metadata:
        raise NotData('hooks or metadata of a tensor')
    # PyTorch would let the storage grow.
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else 0
    _check(end * storage.dtype.itemsize <= storage.data.nbytes(), 'a tensor larger than its storage')
    tensor = torch.empty(0, dtype=storage.dtype, device=storage.data.device)
    tensor.set_(storage.data, offset, size, stride)
    return tensor.requires_grad_() if requires_grad is True else tensor


def _typed_tensor(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> Tensor:
    """Of types that have no class of storages, e.g. float8."""
    _check(isinstance(storage, Storage) and isinstance(dtype, torch.dtype), 'the type of a tensor')
    return _tensor(Storage(storage.data, dtype), offset, size, stride, requires_grad, hooks, metadata)


def _parameter(data, requires_grad, hooks=None) -> torch.nn.Parameter:
    _check(type(data) is Tensor, 'a parameter without a tensor')
    if hooks:
        raise NotData('hooks of a parameter')
    return torch.nn.Parameter(data, requires_grad is True)


def _numpy():
    try:
        import numpy
    except ImportError:
        raise NotData('NumPy, which is not installed') from None
    return numpy


def _numpy_dtype(code, align=False, copy=True):
    """A type of numbers or texts; others, of objects above all, are refused."""
    if not isinstance(code, str) or not re.fullmatch(r'[biufcSU]\d{1,6}', code):
        raise NotData(f'a NumPy array of {code!r}')
    return _numpy().dtype(code)


def _check_array(data, dtype, shape) -> None:
    _check(isinstance(data, bytes | bytearray) and isinstance(dtype, _numpy().dtype), 'a NumPy array')
    _check(_is_sizes(shape) and math.prod(shape) * dtype.itemsize == len(data), 'the size of a NumPy array')


def _empty_array(kind, shape, code):
    """What the state of an array is set to afterwards."""
    _check(kind == Name('numpy.ndarray'), 'a NumPy array')
    return _numpy().empty(0)


def _array(data, dtype, shape, order='C'):
    _check_array(data, dtype, shape)
    return _numpy().ndarray(shape, dtype, bytearray(data), order=order)


def _scalar(dtype, data):
    return _array(data, dtype, (1,))[0]


def _set_array(array, state) -> None:
    _check(isinstance(state, tuple) and len(state) == 5, 'the state of a NumPy array')
    _, shape, dtype, is_fortran, data = state
    if isinstance(data, list):
        raise NotData('a NumPy array of objects')
    _check_array(data, dtype, shape)
    # In place, as something may refer to the array. That is NumPy's own, with arguments that are numbers throughout.
    array.__setstate__((1, shape, dtype, is_fortran is True, bytes(data)))


def _set_numpy_dtype(_, state) -> None:
    """The type is complete; what else there is to say of one is refused."""
    _check(isinstance(state, tuple) and len(state) >= 5, 'the type of a NumPy array')
    own = '<' if sys.byteorder == 'little' else '>'
    if state[1] not in ('|', '=', own) or any(item is not None for item in state[2:5]):
        raise NotData('a NumPy array of structures or of another byte order')


def _set_log(buffer: LogBuffer, state) -> None:
    """Without the statistics, which are HistoryBuffer's own."""
    _check(isinstance(state, dict), 'a log')
    log, count, length = (state.get(key) for key in ('_log_history', '_count_history', 'max_length'))
    for values in (log, count):
        _check(isinstance(values, _numpy().ndarray) and values.ndim == 1 and values.dtype.kind in 'biuf', 'a log')
    _check(len(log) == len(count) and type(length) is int, 'a log')
    buffer.log_history, buffer.count_history, buffer.max_length = log, count, length


def _set_versions(state_dict: OrderedDict, state) -> None:
    """PyTorch keeps the versions of the modules as an attribute of a state dict."""
    if not isinstance(state, dict) or state.keys() != {'_metadata'} or not isinstance(state['_metadata'], dict):
        raise NotData('attributes of an OrderedDict')
    vars(state_dict)['_metadata'] = state['_metadata']


def set_state(target: object, state: object) -> None:
    """Complete an object that is made in two steps.

    Args:
        target: What a function of :data:`MAKERS` has returned.
        state: What the pickle has of it.

    Raises:
        NotData: If it is none of those, or the state holds more than data.
    """
    kind = type(target)
    if type(target) is OrderedDict:
        _set_versions(target, state)
    elif type(target) is LogBuffer:
        _set_log(target, state)
    elif kind.__module__.partition('.')[0] == 'numpy' and kind is _numpy().ndarray:
        _set_array(target, state)
    elif kind.__module__.partition('.')[0] == 'numpy' and isinstance(target, _numpy().dtype):
        _set_numpy_dtype(target, state)
    else:
        raise NotData(f'a state for {describe(target)}')


def describe(value: object) -> str:
    """What a message calls a value: a name by itself, others by their type."""
    return value.path if isinstance(value, Name | Method) else f'a {type(value).__name__}'


# What makes the data, by the name that is called.
MAKERS: dict[str, Callable] = {
    'builtins.getattr': _attribute,
    'builtins.bytes': lambda: b'',
    'builtins.bytearray': _bytearray,
    'builtins.set': _items(set),
    'builtins.frozenset': _items(frozenset),
    'builtins.complex': _numbers(complex),
    'builtins.slice': _numbers(slice),
    '_codecs.encode': _encode,
    'collections.OrderedDict': _ordered_dict,
    'collections.Counter': _counter,
    'mmengine.config.config.ConfigDict': _dict,
    _HISTORY: lambda: LogBuffer(),
    'torch.Size': _size,
    'torch.device': _device,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _typed_tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'numpy.dtype': _numpy_dtype,
    'numpy._core.multiarray._reconstruct': _empty_array,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy._core.numeric._frombuffer': _array,
}
# What is only named, in the arguments of these.
_NAMED_ONLY = frozenset(['numpy.ndarray', _ONE_CYCLE])
