"""VGG16 as a frozen measure of images: torchvision's weights, a file's, or random ones."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...files import read_weights

# Convolutions of each block: output channels, and the number in torchvision's `features`.
_BLOCKS = (
    ((64, 0), (64, 2)),
    ((128, 5), (128, 7)),
    ((256, 10), (256, 12), (256, 14)),
    ((512, 17), (512, 19), (512, 21)),
    ((512, 24), (512, 26), (512, 28)),
)
LAYERS = tuple(f'relu{i}_{j}' for i, block in enumerate(_BLOCKS, 1) for j in range(1, len(block) + 1))
# What torchvision's weights were trained on: RGB from 0 to 1, less the mean, by the deviation.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vgg16(nn.Module):
    """The features of VGG16 (1409.1556) after the ReLUs that are asked for.

    Its weights are buffers that no checkpoint has: they are not learned and fill 30 MB.

    Args:
        weights: 'torchvision' for those of ImageNet, downloaded at the first time; the path of a checkpoint with the
            names of torchvision's VGG16, with or without its classifier; or 'random', He's initialization, the same at
            every time: features of random weights have the textures of an image too, and nothing of what it shows.
        layers: Names of ReLUs, e.g. 'relu2_2'.

    Raises:
        UsageError: If the weights can't be had, or are of another network.
    """

    def __init__(self, weights: str, layers: Iterable[str]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        unknown = [name for name in self.layers if name not in LAYERS]
        if unknown or not self.layers:
            raise UsageError(f'VGG16 has no layer {unknown or "at all"}; expected some of {", ".join(LAYERS)}')
        state = _load(weights)
        for name, value in state.items():
            self.register_buffer(name.replace('.', '_'), value, persistent=False)
        self.register_buffer('mean', torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Features by layer.

        Args:
            x: (N, 3, H, W), RGB from 0 to 1.
            layers: Only these of the layers.

        Returns:
            (N, C, H / s, W / s) by the name of the layer, s being 1, 2, 4, 8, 16 in block 1 to 5.
        """
        wanted = set(self.layers if layers is None else layers)
        x, found = (x - self.get_buffer('mean')) / self.get_buffer('std'), {}
        for i, block in enumerate(_BLOCKS, 1):
            if i > 1:
                x = F.max_pool2d(x, 2)
            for j, (_, number) in enumerate(block, 1):
                weight, bias = (self.get_buffer(f'features_{number}_{kind}') for kind in ('weight', 'bias'))
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
                if f'relu{i}_{j}' in wanted:
                    found[f'relu{i}_{j}'] = x
                if len(found) == len(wanted):
                    return found
        return found


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the features of VGG16, as torchvision has them."""
    found: dict[str, tuple[int, ...]] = {}
    before = 3
    for block in _BLOCKS:
        for channels, number in block:
            found[f'features.{number}.weight'] = (channels, before, 3, 3)
            found[f'features.{number}.bias'] = (channels,)
            before = channels
    return found


def _load(weights: str) -> dict[str, Tensor]:
    if weights == 'random':
        return _random()
    state = _of_torchvision() if weights == 'torchvision' else read_weights(weights)[0]
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    _check(state, weights)
    return {name: state[name].float() for name in shapes()}


def _random() -> dict[str, Tensor]:
    """He's initialization: the second moment of the features stays that of the input, whatever the depth."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes().items():
        if name.endswith('weight'):
            std = (2 / (9 * shape[1])) ** 0.5
            state[name] = torch.empty(shape, device='cpu').normal_(0, std, generator=generator)
        else:
            state[name] = torch.zeros(shape, device='cpu')
    return state


def _of_torchvision() -> Mapping[str, Tensor]:
    from torchvision.models import VGG16_Weights

    try:
        return VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
    except OSError as error:
        raise UsageError(
            f"torchvision's weights of VGG16 cannot be downloaded: {getattr(error, 'reason', error)}. Name a file with "
            f'them (vgg16-397923af.pth of download.pytorch.org): --cfg-options model.loss.vgg=PATH; or take random '
            f'features, which know textures but no things: model.loss.vgg=random'
        ) from None


def _check(state: Mapping[str, Tensor], weights: str) -> None:
    """Refuse weights of another network."""
    expected = shapes()
    found = {name: tuple(value.shape) for name, value in state.items() if name.startswith('features.')}
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    different = [name for name in expected if name in found and found[name] != expected[name]]
    problems = [
        f'{len(names)} {what} ({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'
        for what, names in (('missing', missing), ('unexpected', surplus), ('of another shape', different))
        if names
    ]
    if problems:
        raise UsageError(
            f'{weights} is not a VGG16 as torchvision has it: of its {len(expected)} weights of features '
            f'{"; ".join(problems)}. VGG16 without batch norm is expected (torchvision.models.vgg16), not VGG19, nor '
            f'VGG16 with it'
        )
