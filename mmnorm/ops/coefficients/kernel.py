"""The choice between plain operators and a backend's kernel."""

from collections.abc import Callable
from functools import partial, wraps

from .. import backend
from ..again import differentiate_again


def with_kernels(step: Callable) -> Callable:
    """Let a backend's kernel do a step of the coefficients, where it has one of that name for these tensors.

    Args:
        step: Computes it by plain operators. Its positional arguments are tensors, or None; its options, which are
            given by keyword, are none.

    Returns:
        A function with the same arguments. The kernel is given the tensors, the options, and for gradients of
        gradients a function as :class:`mmnorm._C.Again` takes it.
    """
    name = step.__name__

    @wraps(step)
    def run(*tensors, **options):
        kernel = backend.kernel(name, tensors[0])
        if kernel is None:
            return step(*tensors, **options)
        return kernel(partial(differentiate_again, partial(step, **options)), *tensors, **options)

    return run
