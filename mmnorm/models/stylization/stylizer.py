"""The stylization network and its losses as a model of mmengine."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor

from ...datasets.pictures import IMAGES_OF_0_TO_1
from ...registry import register_in
from .perceptual_loss import PerceptualLoss


@register_in(MODELS)
class Stylizer(BaseModel):
    """Trains a :class:`.TransformationNetwork` by a :class:`.PerceptualLoss`.

    The loss is made when it is first needed: whoever only stylizes images needs neither VGG16 nor the style image.

    Args:
        network: Config of the network.
        loss: Config of the loss, without its type.
        data_preprocessor: RGB from 0 to 1 if None.
        init_cfg: As of mmengine's BaseModel.
    """

    def __init__(self, network: dict, loss: dict, data_preprocessor: dict | None = None, init_cfg: Any = None) -> None:
        super().__init__(data_preprocessor or IMAGES_OF_0_TO_1, init_cfg)
        self.network = MODELS.build(network)
        self.loss_cfg = loss
        # In a dict, as it is no part of this model: not of its checkpoints, nor of what is trained.
        self._made: dict[str, PerceptualLoss] = {}

    @property
    def loss(self) -> PerceptualLoss:
        """The loss, on the device of the network."""
        if not self._made:
            settings = {key: value for key, value in self.loss_cfg.items() if key != 'type'}
            self._made['loss'] = PerceptualLoss(**settings)
        return self._made['loss'].to(next(self.network.parameters()).device)

    def init_weights(self) -> None:
        """Initialize the network; whatever is wrong with the loss is said now, before the data are read."""
        super().init_weights()
        _ = self.loss

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = 'tensor'):
        """Run a batch.

        Args:
            inputs: (N, 3, H, W), RGB from 0 to 1.
            data_samples: One for each image.
            mode: 'tensor' for the stylized images (N, 3, H, W), 'loss' for the losses, 'predict' for samples that have
                ``result``, ``content`` (3, H, W), and ``losses``, which computes the losses of the image.
        """
        result = self.network(inputs)
        if mode == 'tensor':
            return result
        if mode == 'loss':
            return self.loss(result, inputs)
        samples = list(data_samples or (BaseDataElement() for _ in inputs))
        for sample, content, stylized in zip(samples, inputs, result, strict=True):
            sample.content, sample.result = content, stylized.clamp(0, 1)
            # Nobody who looks at the norms or at the images alone pays for VGG16.
            sample.losses = partial(self.losses_of, stylized, content)
        return samples

    @torch.no_grad()
    def losses_of(self, result: Tensor, content: Tensor) -> dict[str, float]:
        """The losses of one image (3, H, W), and their sum, ``loss``."""
        losses = {name: value.item() for name, value in self.loss(result[None], content[None]).items()}
        return {**losses, 'loss': sum(losses.values())}

    def pictures(self, sample: BaseDataElement) -> list[Tensor]:
        """Content, style and result, (3, H, W) each, as ``mmnorm test --show-dir`` shows them."""
        style = self.loss.get_buffer('style')[0]
        return [sample.content, style, sample.result]
