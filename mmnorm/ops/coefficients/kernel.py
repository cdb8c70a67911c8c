"""The choice between plain operators and a backend's kernel."""

from collections.abc import Callable
from functools import cache, partial, wraps

from .. import backend
from ..again import differentiate_again


def with_kernels(*, once: tuple[str, ...] = ()) -> Callable:
    """Let a backend's kernel do a step of the coefficients, where it has one of that name for these tensors.

    The step computes it by plain operators. Its positional arguments are tensors, or None; its options, which are given
    by keyword, are none. The kernel has the same arguments, and before them what gradients of gradients need: see
    :func:`.again.differentiate_again`, without its ``function``.

    Args:
        once: Options with side effects, which gradients of gradients do without.
    """

    def decorate(step: Callable) -> Callable:
        @cache
        def again(**options) -> Callable:
            return partial(differentiate_again, partial(step, **options))

        @wraps(step)
        def run(*tensors, **options):
            kernel = backend.kernel(step.__name__, tensors[0])
            if kernel is None:
                return step(*tensors, **options)
            pure = {name: value for name, value in options.items() if name not in once} if once else options
            return kernel(again(**pure), *tensors, **options)

        return run

    return decorate
