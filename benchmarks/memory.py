"""Memory that a step takes, and that a process takes."""

import ctypes
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

# Without it, later versions warn that a profile has one cycle only, which is what is meant; earlier ones know it not.
ONE_CYCLE = {'acc_events': False} if 'acc_events' in inspect.signature(profile).parameters else {}
# The profiler otherwise reports its every start and stop on stderr.
os.environ.setdefault('KINETO_LOG_LEVEL', '9')


def reuse_freed_memory() -> bool:
    """Have the C library keep large blocks that are freed, as PyTorch keeps them on a GPU.

    Without, it returns them to the system, which hands them out again page by page, zeroed: that can take longer than
    a layer computes.

    Returns:
        Whether the C library (glibc) could be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    settings = {mmap_threshold: 1 << 30, trim_threshold: (1 << 31) - 1, top_pad: 1 << 28}
    return all(mallopt(name, value) for name, value in settings.items())


def step_memory(
    forward: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor, parameters: Sequence[Tensor]
) -> tuple[int, int]:
    """Bytes that a forward and backward add to input, output gradient and parameters, which are there before.

    Returns:
        Bytes kept between forward and backward, the output not counted, and the most bytes at any time, with output
        and gradients.
    """
    torch.autograd.grad(forward(x), [x, *parameters], dy)  # what the first call sets up is no part of a step
    return _cuda_memory(forward, x, dy, parameters) if x.is_cuda else _cpu_memory(forward, x, dy, parameters)


def _cuda_memory(forward, x, dy, parameters) -> tuple[int, int]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = forward(x)
    kept = torch.cuda.memory_allocated() - before - y.untyped_storage().nbytes()
    gradients = torch.autograd.grad(y, [x, *parameters], dy)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del gradients
    return kept, peak


def _cpu_memory(forward, x, dy, parameters) -> tuple[int, int]:
    with _profiler() as forward_profile:
        y = forward(x)
    kept = _allocated(forward_profile)[-1] - y.untyped_storage().nbytes()
    del y
    with _profiler() as step_profile:
        y = forward(x)
        gradients = torch.autograd.grad(y, [x, *parameters], dy)
    del y, gradients
    return kept, max(_allocated(step_profile))


def _profiler() -> profile:
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True, **ONE_CYCLE)


def _allocated(finished: profile) -> list[int]:
    """Bytes allocated since the start of the profile, after each allocation and release."""
    events = [event for event in finished.profiler.kineto_results.events() if event.name() == '[memory]']
    totals = [0]
    # Called start_us by PyTorch before 2.2.
    start = 'start_ns' if not events or hasattr(events[0], 'start_ns') else 'start_us'
    for event in sorted(events, key=lambda event: getattr(event, start)()):
        totals.append(totals[-1] + event.nbytes())
    return totals


def process_memory() -> tuple[int, int] | None:
    """Bytes of memory that this process has now, and the most it ever had; None where the system doesn't tell.

    The most is the kernel's VmHWM. ``ru_maxrss`` would be the same, if it did not start at what the parent process
    had.
    """
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
    except OSError:
        return None
    kilobytes = {
        name: int(value.split()[0]) for name, _, value in (x.partition(':') for x in lines) if name[:2] == 'Vm'
    }
    return kilobytes['VmRSS'] * 1024, kilobytes['VmHWM'] * 1024
