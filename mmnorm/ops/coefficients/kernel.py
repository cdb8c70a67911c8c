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
        # Gradients of gradients repeat the formula, but not what it leaves behind.
        formula = partial(step, **{key: value for key, value in options.items() if key != 'track'})
        return kernel(partial(differentiate_again, formula), *tensors, **options)

    return run
