"""LPIPS by the package ``lpips``: its heads, and a backbone of torchvision, a file or random weights."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..files import read_weights

# By lpips' name: torchvision's name of the weights, and the file that has them.
_BACKBONES = {
    'alex': ('AlexNet_Weights', 'alexnet-owt-7be5be79.pth'),
    'vgg': ('VGG16_Weights', 'vgg16-397923af.pth'),
    'squeeze': ('SqueezeNet1_1_Weights', 'squeezenet1_1-b8a52dc0.pth'),
}


class MissingPartError(Exception):
    """Something that LPIPS needs cannot be had here; the message says what, and what to type."""


def perceptual_distance(net: str, weights: str, key: str) -> nn.Module:
    """LPIPS (Zhang et al., arXiv 1801.03924), version 0.1, in eval mode.

    Args:
        net: 'alex', 'vgg' or 'squeeze'.
        weights: Of the backbone: 'torchvision', downloaded at the first time; the path of a file with torchvision's
            names, e.g. ``features.0.weight``; or 'random', the same at every time, which is for trying things.
        key: Where the weights are set in the config, for messages.

    Returns:
        ``distance(x, y)`` of images (N, 3, H, W), from -1 to 1: (N, 1, 1, 1).

    Raises:
        MissingPartError: If the package or torchvision's weights are not there.
        UsageError: If there is no such net or file, or it has other weights.
    """
    if net not in _BACKBONES:
        raise UsageError(f'LPIPS has no backbone {net!r}; expected one of {", ".join(_BACKBONES)}')
    # Before anything else: a wrong path should be said also where the package is missing.
    state: Mapping[str, Tensor] = {}
    if weights not in ('torchvision', 'random'):
        state = read_weights(weights)[0]
    try:
        import lpips
    except ImportError as error:
        raise MissingPartError(f'the package lpips is missing ({error}): pip install lpips') from None
    if weights == 'torchvision':
        state = _of_torchvision(net, key)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        # It asks torchvision in words of long ago.
        warnings.simplefilter('ignore')
        # Its own download says nothing of what to do; it is always random at first.
        distance = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    if weights != 'random':
        _fill(distance.net, state, weights)
    return distance.requires_grad_(False).eval()


def _of_torchvision(net: str, key: str) -> Mapping[str, Tensor]:
    from torchvision import models

    kind, file = _BACKBONES[net]
    weights: Any = getattr(models, kind).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True)
    except OSError as error:
        raise MissingPartError(
            f"torchvision's weights of its backbone, {file}, cannot be downloaded: {getattr(error, 'reason', error)}. "
            f'Get {weights.url} elsewhere and name the file: --cfg-options {key}=PATH'
        ) from None


def _fill(backbone: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Give the backbone its weights: ``slice2.3.weight`` is torchvision's ``features.3.weight``."""
    own = {name: f'features.{name.partition(".")[2]}' for name in backbone.state_dict()}
    wrong = [
        theirs
        for name, theirs in own.items()
        if theirs not in state or state[theirs].shape != backbone.state_dict()[name].shape
    ]
    if wrong:
        raise UsageError(
            f'{path} is no such backbone of LPIPS as torchvision has it: {len(wrong)} of {len(own)} weights are '
            f'missing or of another shape ({", ".join(wrong[:3])}{", ..." if len(wrong) > 3 else ""})'
        )
    backbone.load_state_dict({name: state[theirs] for name, theirs in own.items()})
