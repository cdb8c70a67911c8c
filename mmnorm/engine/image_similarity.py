"""How like the target an image is: SSIM, RMSE and LPIPS."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from torch import Tensor

from ..errors import UsageError
from ..registry import register_in
from .perceptual_distance import MissingPartError, perceptual_distance

MEASURES = ('ssim', 'rmse', 'lpips')


@register_in(METRICS)
class ImageSimilarity(BaseMetric):
    """Averages over all images of what each has in common with its target.

    * ``ssim``: structural similarity (Wang et al., 2004) by scikit-image, with the authors' Gaussian window of 11x11,
      averaged over the channels; higher is better.
    * ``rmse``: root of the mean squared difference of all values of an image, from 0 to 255.
    * ``lpips``: perceptual distance, see :func:`.perceptual_distance`; with a random backbone it is called
      ``lpips_random``, as it then is another measure.

    What a measure needs and is not installed, or can't be downloaded, is said once, before the test; the others come
    all the same.

    Args:
        measures: Which of them.
        lpips_net: The backbone of LPIPS: 'alex', 'vgg' or 'squeeze'.
        lpips_weights: Its weights: 'torchvision', a path, or 'random'.
        **kwargs: As of mmengine's BaseMetric.

    Raises:
        UsageError: If there is no such measure or backbone, or the file of weights is none.
    """

    def __init__(
        self,
        measures: Sequence[str] = MEASURES,
        lpips_net: str = 'alex',
        lpips_weights: str = 'torchvision',
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        unknown = [name for name in measures if name not in MEASURES]
        if unknown or not measures:
            raise UsageError(f'ImageSimilarity: expected measures out of {", ".join(MEASURES)}, got {list(measures)}')
        make: dict[str, Callable[[], Callable[[Tensor, Tensor], float]]] = {
            'ssim': _ssim,
            'rmse': lambda: _rmse,
            'lpips': lambda: _lpips(lpips_net, lpips_weights),
        }
        self.measures: dict[str, Callable[[Tensor, Tensor], float]] = {}
        for name in measures:
            label = 'lpips_random' if name == 'lpips' and lpips_weights == 'random' else name
            try:
                self.measures[label] = make[name]()
            except MissingPartError as error:
                print_log(f'no {name.upper()} in this test: {error}', logger='current', level=30)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take in a batch of samples with ``result`` and ``target``, (3, H, W), RGB from 0 to 1."""
        for sample in data_samples:
            images = [sample[key].detach().float().cpu() for key in ('result', 'target')]
            self.results.append({name: measure(*images) for name, measure in self.measures.items()})

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The averages."""
        return {name: float(np.mean([result[name] for result in results])) for name in self.measures}


def _rmse(result: Tensor, target: Tensor) -> float:
    return 255 * (result.double() - target.double()).square().mean().sqrt().item()


def _ssim() -> Callable[[Tensor, Tensor], float]:
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingPartError(f'the package scikit-image is missing ({error}): pip install scikit-image') from None

    def measure(result: Tensor, target: Tensor) -> float:
        arrays = [image.double().numpy() for image in (result, target)]
        # Wang et al.: a Gaussian of 1.5 in a window of 11, biased variances.
        settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        return float(structural_similarity(*arrays, channel_axis=0, data_range=1.0, **settings))

    return measure


def _lpips(net: str, weights: str) -> Callable[[Tensor, Tensor], float]:
    distance = perceptual_distance(net, weights, 'test_evaluator.lpips_weights')

    def measure(result: Tensor, target: Tensor) -> float:
        with torch.no_grad():
            return distance(2 * result[None] - 1, 2 * target[None] - 1).item()

    return measure
