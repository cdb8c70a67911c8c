"""pix2pix as a model of mmengine: generator and discriminator learn by turns from pairs of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from ...datasets.pictures import IMAGES_OF_0_TO_1
from ...errors import UsageError
from ...registry import register_in


@register_in(MODELS)
class Pix2Pix(BaseModel):
    """Trains a generator against a discriminator that sees the input, too, and by the distance to the target.

    With input x, target y and result G(x) (1611.07004, Eqn. 1, 3 and 4, images from -1 to 1):

    * the discriminator minimizes half of the binary cross-entropy of D(x, y) as real and D(x, G(x)) as fake;
    * then the generator minimizes that of D(x, G(x)) as real, and ``l1_weight`` times the mean of abs(y - G(x)).

    Training takes a wrapper for each, by :class:`.PartsOptimWrapperConstructor`. The discriminator's statistics, where
    its norm has any, are updated by all three of its passes, as in the authors' code.

    Args:
        generator: Config of the generator.
        discriminator: Config of the discriminator.
        l1_weight: Weight of the distance.
        data_preprocessor: RGB from 0 to 1 if None.
        init_cfg: As of mmengine's BaseModel.
    """

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        l1_weight: float = 100.0,
        data_preprocessor: dict | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(data_preprocessor or IMAGES_OF_0_TO_1, init_cfg)
        self.generator = MODELS.build(generator)
        self.discriminator = MODELS.build(discriminator)
        self.l1_weight = l1_weight

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """Update the discriminator, then the generator.

        Args:
            data: A batch, as :meth:`forward` takes it, not preprocessed yet.
            optim_wrapper: Has ``generator`` and ``discriminator``.

        Returns:
            ``loss``, the generator's, its parts ``loss_gan`` and ``loss_l1``, and the discriminator's ``loss_real`` and
            ``loss_fake``, scalars.

        Raises:
            UsageError: If there are no such optimizers.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict) or not {'generator', 'discriminator'} <= {
            *optim_wrapper.keys()
        }:
            raise UsageError(
                "Pix2Pix learns by two optimizers: optim_wrapper=dict(constructor='PartsOptimWrapperConstructor', "
                'optimizer=dict(...), parts=dict(generator=dict(), discriminator=dict()))'
            )
        of_generator, of_discriminator = optim_wrapper['generator'], optim_wrapper['discriminator']
        data = self.data_preprocessor(data, True)
        source, target = _signed(data['inputs']), _targets(data['data_samples'])
        with of_generator.optim_context(self.generator):
            result = self.generator(source)
        with of_discriminator.optim_context(self.discriminator):
            losses = self.discriminator_losses(source, target, result)
            loss, discriminator_log = self.parse_losses(losses)
        of_discriminator.update_params(loss)
        with _frozen(self.discriminator), of_generator.optim_context(self.generator):
            loss, log = self.parse_losses(self.generator_losses(source, target, result))
            of_generator.update_params(loss)
        return {**log, **{name: value for name, value in discriminator_log.items() if name != 'loss'}}

    def discriminator_losses(self, source: Tensor, target: Tensor, result: Tensor) -> dict[str, Tensor]:
        """``loss_real`` and ``loss_fake``; nothing goes back into the result. All are (N, 3, H, W), from -1 to 1."""
        real, fake = self.discriminator(source, target), self.discriminator(source, result.detach())
        return dict(loss_real=_judged(real, True) / 2, loss_fake=_judged(fake, False) / 2)

    def generator_losses(self, source: Tensor, target: Tensor, result: Tensor) -> dict[str, Tensor]:
        """``loss_gan`` and ``loss_l1``, with its weight. All are (N, 3, H, W), from -1 to 1."""
        # Not by way of DistributedDataParallel, which would wait for gradients of the discriminator.
        fake = getattr(self.discriminator, 'module', self.discriminator)(source, result)
        return dict(loss_gan=_judged(fake, True), loss_l1=self.l1_weight * F.l1_loss(result.float(), target))

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = 'tensor'):
        """Run a batch.

        Args:
            inputs: (N, 3, H, W), RGB from 0 to 1.
            data_samples: One for each image; training and 'predict' take their ``target``, (3, H, W), RGB, uint8.
            mode: 'tensor' for the results (N, 3, H, W), RGB from 0 to 1; 'loss' for the losses of both parts; 'predict'
                for samples that have ``source``, ``result`` and ``target``, (3, H, W), RGB from 0 to 1.
        """
        source = _signed(inputs)
        result = self.generator(source)
        if mode == 'tensor':
            return (result + 1) / 2
        target = _targets(data_samples)
        if mode == 'loss':
            of_both = self.discriminator_losses, self.generator_losses
            return {name: loss for losses in of_both for name, loss in losses(source, target, result).items()}
        samples = list(data_samples or ())
        for sample, *images in zip(samples, inputs, (result + 1) / 2, (target + 1) / 2, strict=True):
            sample.source, sample.result, sample.target = images
        return samples

    def pictures(self, sample: BaseDataElement) -> list[Tensor]:
        """Input, result and target, (3, H, W) each, as ``mmnorm test --show-dir`` shows them."""
        return [sample.source, sample.result, sample.target]


def _signed(images: Tensor) -> Tensor:
    """From 0 to 1 to -1 to 1."""
    return 2 * images - 1


def _targets(samples: Sequence[BaseDataElement] | None) -> Tensor:
    """The targets of a batch, from -1 to 1."""
    if not samples or any('target' not in sample for sample in samples):
        raise UsageError(
            'Pix2Pix learns from pairs of images: expected samples with a target, as the data set PairedImages and the '
            'transform PackPair make them'
        )
    return _signed(torch.stack([sample.target for sample in samples]).float() / 255)


def _judged(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of all patches being real, or fake."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """What goes back through a module leaves no gradients in it."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
