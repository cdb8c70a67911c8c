"""What older versions of PyTorch lack or call otherwise. mmnorm runs from 2.1 on; graphs want 2.7."""

from collections.abc import Callable

import torch


def is_exporting() -> bool:
    """Whether torch.export traces (told apart from torch.compile since 2.7)."""
    return getattr(torch.compiler, 'is_exporting', bool)()


def is_autocast_enabled(device_type: str) -> bool:
    """Whether autocast is on for a type of device; False for those that have none, such as meta."""
    try:
        return torch.is_autocast_enabled(device_type)
    except (RuntimeError, TypeError):
        # Until 2.4 it takes no device and means CUDA; and it refuses devices without autocast.
        enabled = {'cuda': torch.is_autocast_enabled, 'cpu': torch.is_autocast_cpu_enabled}.get(device_type, bool)
        return enabled()


def custom_op(name: str, function: Callable, fake: Callable) -> Callable:
    """An operator that tracing sees as one node; before 2.4, the function itself."""
    if not hasattr(torch.library, 'custom_op'):
        return function
    operator = torch.library.custom_op(name, function, mutates_args=())
    operator.register_fake(fake)
    return operator
