"""Proposals that are the same whatever a detector's weights are."""

import torch
from torch import nn

from mmnorm.analysis.proposals import fixed_proposals, random_boxes


def test_boxes_lie_in_the_image():
    boxes = random_boxes(2000, height=40, width=900)
    low, high = boxes[:, :2], boxes[:, 2:]
    assert boxes.shape == (2000, 4)
    assert (low >= 0).all()
    assert (high <= torch.tensor([900, 40]) + 1e-3).all()
    sides = high - low
    assert sides.min() >= 15.99
    assert sides[:, 0].max() <= 512.01
    # Evenly on a logarithmic scale: as many below the geometric mean of 16 and 512 as above.
    assert 0.45 < (sides[:, 0] < (16 * 512) ** 0.5).float().mean() < 0.55
    assert torch.equal(boxes, random_boxes(2000, height=40, width=900))


def test_boxes_of_tiny_images():
    assert torch.equal(random_boxes(3, height=8, width=8), torch.tensor([[0.0, 0, 8, 8]] * 3))


class Proposing(nn.Module):
    test_cfg = dict(max_per_img=7)

    def __init__(self):
        super().__init__()
        self.runs = 0

    def forward(self, features):
        self.runs += 1

    def predict(self, features, samples, rescale=False):
        raise AssertionError('the proposals are to be replaced')


def test_the_head_runs_and_is_itself_again():
    network = nn.Module()
    network.rpn_head = Proposing()
    own = network.rpn_head.predict
    with fixed_proposals(network, torch.zeros(2, 3, 32, 48)):
        first, second = network.rpn_head.predict(None, [object(), object()], rescale=False)
    assert network.rpn_head.runs == 1
    assert network.rpn_head.predict == own
    assert len(first) == 7
    assert torch.equal(first.bboxes, second.bboxes)


def test_networks_without_proposals():
    with fixed_proposals(nn.Conv2d(1, 1, 1), torch.zeros(1, 3, 8, 8)):
        pass
