"""SSIM, RMSE and LPIPS: against their formulas, and where something that they need is missing."""

import sys
from urllib.error import URLError

import pytest
import torch
from mmengine.registry import METRICS
from torch.nn import functional as F

from mmnorm.engine import perceptual_distance as distances
from mmnorm.engine.image_similarity import ImageSimilarity
from mmnorm.errors import UsageError


def samples(count=3, size=(24, 30)):
    torch.manual_seed(0)
    target = torch.rand(count, 3, *size)
    result = (target + 0.2 * torch.randn(count, 3, *size)).clamp(0, 1)
    return [dict(result=r, target=t) for r, t in zip(result, target, strict=True)]


def measured(metric, given):
    metric.process({}, given[:1])
    metric.process({}, given[1:])
    return metric.evaluate(len(given))


def ssim(x, y):
    """Wang et al., 2004, Eqn. 13 and Section III-B, over windows that lie within the image; (C, H, W), float64."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None]
    window = window / window.sum()
    mean_x, mean_y, xx, yy, xy = (F.conv2d(z[:, None], window) for z in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x**2 + yy - mean_y**2
    return (
        (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    ).mean()


def test_against_the_formulas():
    pytest.importorskip('skimage')
    given = samples()
    found = measured(METRICS.build(dict(type='ImageSimilarity', measures=['ssim', 'rmse'])), given)
    x, y = (torch.stack([sample[key] for sample in given]).double() for key in ('result', 'target'))
    assert found['ssim'] == pytest.approx(sum(ssim(a, b).item() for a, b in zip(x, y, strict=True)) / 3, rel=1e-9)
    expected = sum(((a - b) ** 2).mean().sqrt().item() for a, b in zip(x, y, strict=True)) / 3
    assert found['rmse'] == pytest.approx(255 * expected, rel=1e-9)


def test_equal_images():
    pytest.importorskip('skimage')
    given = [dict(result=sample['target'], target=sample['target']) for sample in samples()]
    assert measured(ImageSimilarity(['ssim', 'rmse']), given) == dict(ssim=pytest.approx(1), rmse=0)


def test_unknown_measures():
    for measures in (['psnr'], []):
        with pytest.raises(UsageError, match='expected measures out of ssim, rmse, lpips, got'):
            ImageSimilarity(measures)
    with pytest.raises(UsageError, match="no backbone 'resnet'; expected one of alex, vgg, squeeze"):
        ImageSimilarity(['lpips'], lpips_net='resnet')
    with pytest.raises(UsageError, match='checkpoint not found'):
        ImageSimilarity(lpips_weights='nowhere.pth')


@pytest.mark.parametrize('missing', ['lpips', 'skimage.metrics'])
def test_what_is_not_installed_is_said(monkeypatch, caplog, missing):
    pytest.importorskip('skimage')
    said = []
    monkeypatch.setattr('mmnorm.engine.image_similarity.print_log', lambda text, **_: said.append(text))
    monkeypatch.setitem(sys.modules, missing, None)
    measures = ['ssim', 'rmse', *(['lpips'] if missing == 'lpips' else [])]
    metric = ImageSimilarity(measures, lpips_weights='random')
    package = 'scikit-image' if missing != 'lpips' else 'lpips'
    (text,) = said
    assert f'the package {package} is missing' in text
    assert text.endswith(f'pip install {package}')
    assert set(measured(metric, samples())) == {'rmse', *(['ssim'] if missing == 'lpips' else [])}


def test_weights_that_cannot_be_downloaded(monkeypatch):
    pytest.importorskip('lpips')
    models, said = pytest.importorskip('torchvision').models, []

    def fails(self, *args, **kwargs):
        raise URLError('Name or service not known')

    monkeypatch.setattr(models.AlexNet_Weights, 'get_state_dict', fails)
    monkeypatch.setattr('mmnorm.engine.image_similarity.print_log', lambda text, **_: said.append(text))
    assert set(measured(ImageSimilarity(), samples())) == {'ssim', 'rmse'}
    (text,) = said
    assert text.startswith("no LPIPS in this test: torchvision's weights of its backbone, alexnet-owt-7be5be79.pth")
    assert 'Name or service not known. Get https://download.pytorch.org/models/alexnet-owt-7be5be79.pth' in text
    assert text.endswith('--cfg-options test_evaluator.lpips_weights=PATH')


def test_random_weights_have_a_name_of_their_own():
    pytest.importorskip('lpips')
    given, metrics = samples(size=(64, 64)), [ImageSimilarity(lpips_weights='random') for _ in range(2)]
    before = torch.get_rng_state()
    found = [measured(metric, given) for metric in metrics]
    assert torch.equal(before, torch.get_rng_state())
    assert set(found[0]) == {'ssim', 'rmse', 'lpips_random'}
    assert found[0] == found[1]
    assert found[0]['lpips_random'] > 0
    equal = [dict(result=sample['target'], target=sample['target']) for sample in given]
    assert measured(metrics[0], equal)['lpips_random'] == 0


def test_weights_of_a_file(tmp_path):
    """Against the formula on torchvision's network: unit-length features, squared differences, the heads' weights."""
    pytest.importorskip('lpips')
    models = pytest.importorskip('torchvision').models
    with torch.device('meta'):
        network = models.alexnet(weights=None).features
    network.to_empty(device='cpu')
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    file = tmp_path / 'backbone.pth'
    torch.save({f'features.{name}': value for name, value in network.state_dict().items()}, file)
    distance = distances.perceptual_distance('alex', str(file), 'key')
    assert not any(p.requires_grad for p in distance.parameters())
    x, y = 2 * torch.rand(2, 1, 3, 64, 64) - 1
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    features = []
    for z in (x, y):
        z, found = (z - shift) / scale, []
        for module in network:
            z = module(z.clone())
            if isinstance(module, torch.nn.ReLU):
                found.append(z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10))
        features.append(found)
    expected = 0
    for i, (a, b) in enumerate(zip(*features, strict=True)):
        expected += F.conv2d((a - b) ** 2, getattr(distance, f'lin{i}').model[-1].weight).mean()
    torch.testing.assert_close(distance(x, y).flatten()[0], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match='is no such backbone of LPIPS .* are missing or of another shape'):
        distances.perceptual_distance('squeeze', str(file), 'key')
