"""The networks that the installed codebases lack: shapes, sizes, and against a plain twin."""

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn import functional as F

from mmnorm.models import InceptionV2, ThinResNetCIFAR


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


# Section 4.2 and Table 6 of the ResNet paper, to two digits; the classifier has 650 of them.
@pytest.mark.parametrize(('depth', 'millions'), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_of_the_resnet_paper(depth, millions):
    model = ThinResNetCIFAR(depth)
    parameters = sum(p.numel() for p in model.parameters()) + 650
    assert parameters / 1e6 == pytest.approx(millions, rel=0.02)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == depth - 1
    assert model.layer1[0].bn2.weight.eq(1).all()


def test_unknown_depth():
    with pytest.raises(KeyError, match='21'):
        ThinResNetCIFAR(21)


def plain_resnet(model, x):
    """The ResNet paper's network with shortcuts of option A, written out over the weights of ``model``."""
    x = F.relu(model.bn1(model.conv1(x)))
    for stage in (model.layer1, model.layer2, model.layer3):
        for block in stage:
            y = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, stride=block.stride, padding=1)))
            y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1))
            if block.stride == 2:
                n, c, h, w = x.shape
                shortcut = x.new_zeros(n, 2 * c, h // 2, w // 2)
                shortcut[:, c // 2 : c // 2 + c] = x[:, :, ::2, ::2]
                x = shortcut
            x = F.relu(x + y)
    return x


def test_resnet20_is_the_plain_network():
    torch.manual_seed(0)
    model = ThinResNetCIFAR(20).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    (y,) = model(x)
    assert y.shape == (2, 64, 8, 8)
    torch.testing.assert_close(y, plain_resnet(model, x), rtol=1e-12, atol=1e-12)


# Output sizes in Figure 5 of the paper, at 224x224; those of the modules of stride 2 are of their input there.
INCEPTION = {'3a': (256, 28), '3b': (320, 28), '3c': (576, 14), '4a': (576, 14), '4b': (576, 14), '4c': (576, 14)}
INCEPTION |= {'4d': (576, 14), '4e': (1024, 7), '5a': (1024, 7), '5b': (1024, 7)}


def test_inception_v2():
    model = InceptionV2(norm_cfg=dict(type='GN', num_groups=2))
    shapes = {}
    for name, module in model.inception.items():
        module.register_forward_hook(lambda m, args, out, name=name: shapes.update({name: tuple(out.shape[1:3])}))
    with torch.no_grad():
        (y,) = model(torch.randn(1, 3, 224, 224))
    assert shapes == INCEPTION
    assert y.shape == (1, 1024, 7, 7)
    assert sum(isinstance(m, nn.GroupNorm) for m in model.modules()) == 69
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_inception_v2_takes_other_sizes():
    (y,) = InceptionV2()(torch.randn(2, 3, 65, 95))
    assert y.shape == (2, 1024, 3, 3)
