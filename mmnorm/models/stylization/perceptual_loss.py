"""The losses of "Perceptual Losses for Real-Time Style Transfer" (1603.08155): features, style, total variation."""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...datasets.pictures import read_picture, resize_short_side
from ...errors import UsageError
from ...registry import register_in
from .vgg import Vgg16


def gram_matrix(features: Tensor) -> Tensor:
    """Eqn. 3: products of the channels, averaged over positions and channels.

    Args:
        features: (N, C, H, W).

    Returns:
        (N, C, C).
    """
    n, c, h, w = features.shape
    flat = features.reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


@register_in(MODELS)
class PerceptualLoss(nn.Module):
    """What a stylized image lacks of the content of one image and the style of another, seen by VGG16.

    * feature reconstruction, Eqn. 2: mean squared difference of the features of result and content;
    * style reconstruction, Eqn. 4: squared Frobenius norm of the difference of the Gram matrices of result and style;
    * total variation: squared differences of neighbouring pixels, summed.

    Each is averaged over the batch, summed over its layers, and multiplied by its weight.

    Args:
        style_image: Path of the image whose style is wanted.
        vgg: Weights of VGG16, see :class:`.vgg.Vgg16`: 'torchvision', a path, or 'random'.
        style_size: Short side to which the style image is scaled; None leaves it as it is.
        feature_layers: Layers whose features are compared.
        style_layers: Layers whose Gram matrices are compared.
        feature_weight: Weight of the feature reconstruction.
        style_weight: Weight of the style reconstruction.
        tv_weight: Weight of the total variation, of images from 0 to 1.

    Raises:
        UsageError: If the style image or the weights are not there, or are something else.
    """

    def __init__(
        self,
        style_image: str,
        vgg: str = 'torchvision',
        style_size: int | None = 256,
        feature_layers: Sequence[str] = ('relu2_2',),
        style_layers: Sequence[str] = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3'),
        feature_weight: float = 1.0,
        style_weight: float = 5.0,
        tv_weight: float = 2e-5,
    ) -> None:
        super().__init__()
        if not style_image:
            raise UsageError('no style image: give one, --cfg-options model.loss.style_image=PATH')
        picture = read_picture(style_image, 'the style image, model.loss.style_image').rgb
        style = resize_short_side(picture, style_size)[None]
        self.feature_layers, self.style_layers = tuple(feature_layers), tuple(style_layers)
        self.weights = dict(feature=feature_weight, style=style_weight, tv=tv_weight)
        self.vgg = Vgg16(vgg, dict.fromkeys((*feature_layers, *style_layers)))
        self.register_buffer('style', style, persistent=False)
        with torch.no_grad():
            for name, features in self.vgg(style, self.style_layers).items():
                self.register_buffer(f'gram_{name}', gram_matrix(features), persistent=False)

    def forward(self, result: Tensor, content: Tensor) -> dict[str, Tensor]:
        """The losses.

        Args:
            result: (N, 3, H, W), RGB from 0 to 1.
            content: The same of the images that it was made of.

        Returns:
            ``loss_feature``, ``loss_style`` and ``loss_tv``, scalars, with their weights.
        """
        # Sums of thousands of squares are nothing for half precision.
        with torch.autocast(result.device.type, enabled=False):
            result, content = result.float(), content.float()
            with torch.no_grad():
                wanted = self.vgg(content, self.feature_layers)
            found = self.vgg(result)
            feature = sum(((found[name] - wanted[name]) ** 2).mean() for name in self.feature_layers)
            style = sum(
                ((gram_matrix(found[name]) - self.get_buffer(f'gram_{name}')) ** 2).sum((1, 2)).mean()
                for name in self.style_layers
            )
            down, right = (result.diff(dim=dim).pow(2).sum((1, 2, 3)).mean() for dim in (2, 3))
            losses = dict(feature=feature, style=style, tv=down + right)
        return {f'loss_{name}': self.weights[name] * torch.as_tensor(loss) for name, loss in losses.items()}
