"""What a new layer takes over from its predecessor besides the values."""

from torch import nn

from .sources import tensors_of


def match_dtypes(layer: nn.Module, source: nn.Module) -> None:
    """Give the buffers of ``layer`` the types that they had: they may be other than those of the parameters."""
    buffers = tensors_of(source)
    for name, buffer in layer._buffers.items():
        if buffer is not None and name in buffers:
            layer._buffers[name] = buffer.to(buffers[name].dtype)


def copy_requires_grad(layer: nn.Module, source: nn.Module) -> None:
    """Freeze gamma and beta where they were, and all that the layer learns besides where both were."""
    affine = {name: t for name, t in tensors_of(source).items() if name in ('weight', 'bias')}
    for name, tensor in affine.items():
        if getattr(layer, name) is not None:
            getattr(layer, name).requires_grad_(tensor.requires_grad)
    if affine and not any(tensor.requires_grad for tensor in affine.values()):
        layer.requires_grad_(False)
