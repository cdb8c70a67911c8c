"""Proposals that do not depend on a detector's weights, so that its heads cost the same whatever the norm is."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

# Sides of the proposals in pixels, as far as the image has room: what the levels of a pyramid see.
SMALLEST, LARGEST = 16, 512


def random_boxes(number: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Boxes all over an image, of sides that are evenly spread on a logarithmic scale.

    Args:
        number: How many.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        seed: Of the random numbers; the same boxes each time.

    Returns:
        Tensor (number, 4): left, top, right and bottom.
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float32)
    low = torch.minimum(size, torch.tensor(float(SMALLEST))).log()
    high = torch.minimum(size, torch.tensor(float(LARGEST))).log()
    sides = (low + (high - low) * torch.rand(number, 2, generator=generator)).exp()
    corner = (size - sides) * torch.rand(number, 2, generator=generator)
    return torch.cat([corner, corner + sides], 1)


@contextmanager
def fixed_proposals(network: nn.Module, x: Tensor) -> Iterator[None]:
    """While it lasts, a detector with proposals runs its heads on :func:`random_boxes`, as many as it takes at most.

    Its own proposals come from weights: random ones give as many as they happen to, and with another norm others. The
    head that proposes still runs; only what it says is not used. Other networks are left as they are.

    Args:
        network: Any network.
        x: The batch of images, (N, 3, H, W), that it is about to see.
    """
    head = getattr(network, 'rpn_head', None)
    if head is None:
        yield
        return
    from mmengine.structures import InstanceData

    number = (head.test_cfg or {}).get('max_per_img', 1000)
    boxes = random_boxes(number, *x.shape[2:]).to(x)
    fixed = dict(bboxes=boxes, scores=boxes.new_ones(number), labels=boxes.new_zeros(number, dtype=torch.long))

    def predict(features, samples, rescale: bool = False) -> list:
        head(features)
        return [InstanceData(**fixed) for _ in samples]

    with patch.object(head, 'predict', predict):
        yield
