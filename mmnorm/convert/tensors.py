"""What a new layer takes over from its predecessor besides the values."""

from torch import nn

from .sources import tensors_of


def match_dtypes(layer: nn.Module, source: nn.Module) -> None:
    """Give the buffers of ``layer`` the types that they had: they may be other than those of the parameters."""
    buffers = tensors_of(source)
    for name, buffer in layer._buffers.items():
        if buffer is not None and name in buffers:
            layer._buffers[name] = buffer.to(buffers[name].dtype)


def copy_requires_grad(layer: nn.Module, source: nn.Module, also_missing: bool = True) -> None:
    """Freeze gamma and beta where they were, and everything where all was.

    Args:
        layer: The new layer.
        source: The layer that it replaces.
        also_missing: Freeze a gamma or beta that ``source`` does without, too: it stays what it was, 1 or 0.
    """
    # Frozen BatchNorms have gamma and beta as buffers.
    learned = {n: t for n, t in tensors_of(source).items() if n in source._parameters or n in ('weight', 'bias')}
    for name in ('weight', 'bias'):
        if getattr(layer, name) is not None and (name in learned or also_missing):
            getattr(layer, name).requires_grad_(name in learned and learned[name].requires_grad)
    if learned and not any(tensor.requires_grad for tensor in learned.values()):
        layer.requires_grad_(False)
