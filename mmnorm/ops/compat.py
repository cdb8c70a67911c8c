"""Where versions of PyTorch differ, and the private names of PyTorch that are needed, each with its guard.

Nothing else in mmnorm asks for a version of PyTorch or names anything private of it. What each function decides is
tested in tests/ops/test_compat.py, on every version that docs/installation.md lists.
"""

import ctypes

import torch
from torch.autograd import forward_ad

# The bases of the norms and of dropout, by which OpenMMLab tells them. They have no public name, and have had this one
# since before 2.1.
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase

__all__ = [
    'HAS_FLOAT16_NORMS',
    'BatchNormBase',
    'DropoutBase',
    'InstanceNormBase',
    'is_autocast_enabled',
    'is_compiling',
    'is_forward_ad',
    'is_transformed',
    'openmp_functions',
]


def _has_float16_norms() -> bool:
    x, one = torch.zeros(1, 1, 1, dtype=torch.float16), torch.ones(1)
    try:
        torch.nn.functional.batch_norm(x, one, one)
        torch.ops.aten.native_group_norm_backward(x, x, one[None], one[None], one, 1, 1, 1, 1, [False, True, True])
    except RuntimeError:
        return False
    return True


# Whether the kernels of PyTorch's norms take float16 on the CPU, with statistics in float32.
HAS_FLOAT16_NORMS = _has_float16_norms()


# Whether torch.compile or torch.export traces. Before there is a public name, the compiler puts True in the place of
# this call.
is_compiling = getattr(torch.compiler, 'is_compiling', None) or torch._utils.is_compiling


# The innermost transform of torch.func, None outside of all; under its first name until 2.1.
_functorch = getattr(torch._C, '_functorch', None)
_innermost = getattr(_functorch, 'maybe_current_level', None) or getattr(_functorch, 'peek_interpreter_stack', None)


def is_transformed() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp, ...) is under way.

    Where PyTorch no longer says so, False: its nodes with a backward of their own then refuse transforms in words.
    """
    return _innermost is not None and _innermost() is not None


def is_forward_ad() -> bool:
    """Whether forward-mode differentiation is under way; where PyTorch no longer says so, as :func:`is_transformed`."""
    return getattr(forward_ad, '_current_level', -1) >= 0


def _takes_device_type() -> bool:
    try:
        torch.is_autocast_enabled('cpu')
    except TypeError:
        return False
    return True


if _takes_device_type():

    def is_autocast_enabled(device_type: str) -> bool:
        """Whether autocast is on for a type of device; False for those that have none, such as meta."""
        try:
            return torch.is_autocast_enabled(device_type)
        except RuntimeError:
            return False

else:

    def is_autocast_enabled(device_type: str) -> bool:
        """Whether autocast is on for a type of device. Until 2.3 there is a function for each, here CPU and CUDA."""
        if device_type == 'cpu':
            return torch.is_autocast_cpu_enabled()
        return device_type == 'cuda' and torch.is_autocast_enabled()


def openmp_functions() -> tuple[int, int, int] | None:
    """Addresses of ``GOMP_parallel``, ``omp_get_thread_num`` and ``omp_get_num_threads`` in PyTorch's OpenMP.

    They are looked up as the linker has done it, first in the whole program, where a preloaded OpenMP is, then among
    what PyTorch's extension module is linked to. So they are of the library whose threads PyTorch uses, wherever that
    lies. None where PyTorch has its threads from elsewhere.
    """
    for path in (None, torch._C.__file__):
        try:
            library = ctypes.CDLL(path)
            functions = [library[name] for name in ('GOMP_parallel', 'omp_get_thread_num', 'omp_get_num_threads')]
        except (AttributeError, OSError, TypeError):
            continue
        parallel, number, count = (ctypes.cast(function, ctypes.c_void_p).value for function in functions)
        if parallel and number and count:
            return parallel, number, count
    return None
