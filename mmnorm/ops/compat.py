"""What older versions of PyTorch lack or call otherwise. mmnorm runs from 2.1 on; graphs want 2.7."""

import torch
from torch.autograd import forward_ad


def is_autocast_enabled(device_type: str) -> bool:
    """Whether autocast is on for a type of device; False for those that have none, such as meta."""
    try:
        return torch.is_autocast_enabled(device_type)
    except (RuntimeError, TypeError):
        # Until 2.4 it takes no device and means CUDA; and it refuses devices without autocast.
        enabled = {'cuda': torch.is_autocast_enabled, 'cpu': torch.is_autocast_cpu_enabled}.get(device_type, bool)
        return enabled()


def is_transformed() -> bool:
    """Whether tensors are traced or transformed: by torch.jit.trace, torch.func, or forward-mode differentiation."""
    return (
        torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )
