"""Stylization: the network and its losses against plain formulas, and the way from a folder of images to pictures."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import in_fork
from mmengine.hooks import CheckpointHook
from mmengine.registry import MODELS
from PIL import Image
from torch import nn
from torch.nn import functional as F

from mmnorm.datasets.pictures import read_picture
from mmnorm.errors import UsageError
from mmnorm.models import PerceptualLoss, TransformationNetwork
from mmnorm.models.stylization.vgg import LAYERS, Vgg16, shapes

ROOT = Path(__file__).resolve().parents[2]
NORMS = ('BN', 'IN', 'GN', 'SN', 'EN', 'ILM')
CONFIG = ROOT / 'configs/demo/johnson_sn_digits.py'


def norm_cfg(norm):
    return dict(type=norm, num_groups=4) if norm == 'GN' else dict(type=norm)


@pytest.mark.parametrize('norm', NORMS)
def test_every_norm_and_size(norm):
    network = TransformationNetwork(norm_cfg(norm), channels=4, num_blocks=2)
    for size in ((32, 32), (33, 46), (7, 5), (1, 1)):
        x = torch.rand(2, 3, *size, requires_grad=True)
        y = network(x)
        assert y.shape == x.shape
        assert y.min() >= 0
        assert y.max() <= 1
    y.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_network_of_the_paper():
    """Johnson et al., supplementary material: 9x9s4 and so on; IN has gamma and beta."""
    network = TransformationNetwork()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    found = [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convs]
    assert found == [
        (32, 9, 1), (64, 3, 2), (128, 3, 2), *[(128, 3, 1)] * 10, (64, 3, 2), (32, 3, 2), (3, 9, 1)
    ]  # fmt: skip
    assert network.padding == 40
    assert sum(isinstance(m, nn.InstanceNorm2d) and m.affine for m in network.modules()) == 15


def plain(network, x):
    """The same written out, for sizes that are multiples of 4."""

    def norm(x, m):
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * m.weight.view(1, -1, 1, 1) + m.bias.view(1, -1, 1, 1)

    x = F.pad(x, [network.padding] * 4, mode='reflect')
    for step, (stride, pad) in zip(network.down, ((1, 4), (2, 1), (2, 1)), strict=True):
        x = F.relu(norm(F.conv2d(x, step.conv.weight, stride=stride, padding=pad), getattr(step, 'in')))
    for block in network.residual:
        y = F.relu(norm(F.conv2d(x, block.conv1.conv.weight), getattr(block.conv1, 'in')))
        y = norm(F.conv2d(y, block.conv2.conv.weight), getattr(block.conv2, 'in'))
        x = y + x[:, :, 2:-2, 2:-2]
    for step in network.up:
        x = F.conv_transpose2d(x, step.conv.weight, stride=2, padding=1, output_padding=1)
        x = F.relu(norm(x, getattr(step, 'in')))
    return 0.5 + 0.5 * torch.tanh(F.conv2d(x, network.last.weight, network.last.bias, padding=4))


def test_against_the_plain_network():
    network = TransformationNetwork(channels=4, num_blocks=2).double()
    x = torch.rand(2, 3, 24, 36, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain(network, x), rtol=1e-10, atol=1e-12)


@pytest.fixture(scope='module')
def torchvision_vgg():
    torchvision = pytest.importorskip('torchvision')
    torch.manual_seed(0)
    return torchvision.models.vgg16(weights=None).features.eval()


def test_vgg_is_torchvisions(torchvision_vgg, tmp_path):
    file = tmp_path / 'vgg16.pth'
    torch.save({f'features.{name}': value for name, value in torchvision_vgg.state_dict().items()}, file)
    ours, x = Vgg16(str(file), LAYERS), torch.rand(1, 3, 48, 40)
    y = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = []
    for module in torchvision_vgg:
        y = module(y.clone())
        if isinstance(module, nn.ReLU):
            expected.append(y)
    found = ours(x)
    assert list(found) == list(LAYERS)
    for name, one in zip(LAYERS, expected, strict=True):
        torch.testing.assert_close(found[name], one)
    assert not ours.state_dict()
    assert not list(ours.parameters())


def test_random_vgg_is_of_the_right_scale():
    """The second moment of the features stays that of the input, at every depth, and every time it is the same."""
    x = torch.rand(1, 3, 64, 64)
    vgg = Vgg16('random', LAYERS[:10])
    found = vgg(x)
    for features in found.values():
        assert 0.1 < features.pow(2).mean().sqrt() < 10
    again = Vgg16('random', LAYERS[:10])(x)
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Images of every kind in a folder, a style, and a checkpoint of another VGG."""
    folder = tmp_path_factory.mktemp('stylization')
    random = np.random.default_rng(0)
    (folder / 'content/deeper').mkdir(parents=True)
    (folder / 'empty').mkdir()
    for i, size in enumerate(((40, 50), (33, 47), (64, 32), (37, 37))):
        image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(folder / ('content' if i % 2 else 'content/deeper') / f'{i}.png')
    Image.fromarray(random.integers(0, 256, (30, 41, 3), dtype=np.uint8)).save(folder / 'style.jpg')
    state = {f'features.{n}.weight': torch.zeros(1) for n in (0, 2, 5, 7, 10, 12, 14, 16, 19, 34)}
    torch.save(state, folder / 'vgg19.pth')
    (folder / 'words.png').write_text('no image')
    return folder


def test_losses_against_the_plain_formula(files):
    loss = PerceptualLoss(str(files / 'style.jpg'), 'random', 32, feature_weight=2.0, style_weight=3.0, tv_weight=0.5)
    result, content = torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)
    found = loss(result, content)
    names = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3')
    of = {key: loss.vgg(x, names) for key, x in (('y', result), ('c', content), ('s', loss.style))}
    feature = sum(F.mse_loss(of['y']['relu2_2'][i], of['c']['relu2_2'][i]) for i in range(2)) / 2
    style = 0
    for i in range(2):
        for name in names:
            grams = []
            for x in (of['y'][name][i], of['s'][name][0]):
                c, h, w = x.shape
                grams.append(torch.einsum('ahw,bhw->ab', x, x) / (c * h * w))
            style += (grams[0] - grams[1]).norm() ** 2 / 2
    tv = sum(
        (result[i, :, 1:] - result[i, :, :-1]).pow(2).sum() + (result[i, ..., 1:] - result[i, ..., :-1]).pow(2).sum()
        for i in range(2)
    )
    expected = dict(loss_feature=2 * feature, loss_style=3 * style, loss_tv=0.5 * tv / 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_loss_is_no_part_of_the_checkpoint(files):
    settings = dict(style_image=str(files / 'style.jpg'), vgg='random', style_size=32)
    network = dict(type='TransformationNetwork', channels=4, num_blocks=1)
    model = MODELS.build(dict(type='mmnorm.Stylizer', network=network, loss=settings))
    names = set(model.state_dict())
    model(torch.rand(1, 3, 16, 16), mode='loss')
    assert set(model.state_dict()) == names == {f'network.{name}' for name in model.network.state_dict()}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(style_image='none.jpg'), r'there is no .*none.jpg \(the style image'),
        (dict(style_image='words.png'), 'cannot be read as an image'),
        (dict(vgg='vgg19.pth'), r'not a VGG16 .* 18 missing .*2 unexpected \(features.16.weight, features.34.weight\)'),
        (dict(vgg='nowhere.pth'), 'checkpoint not found'),
        (dict(style_layers=('relu9_9',)), 'VGG16 has no layer'),
    ],
)
def test_wrong_losses_are_refused(files, change, message):
    settings = dict(style_image='style.jpg', vgg='random', **{k: v for k, v in change.items() if k == 'style_layers'})
    settings.update(change)
    for key in ('style_image', 'vgg'):
        if settings[key] != 'random':
            settings[key] = str(files / settings[key])
    with pytest.raises(UsageError, match=message):
        PerceptualLoss(**settings)


def test_weights_of_vgg_are_all_asked_for():
    assert len(shapes()) == 26


@pytest.fixture(scope='module')
def run(files):
    """Run train, test, stylize or analyze; returns what it said."""

    def run(command, *arguments, options=(), expected=0):
        log = files / 'log.txt'
        given = dict(
            {
                'model.loss.style_image': files / 'style.jpg',
                'model.network.channels': 4,
                'model.network.num_blocks': 1,
                'train_dataloader.batch_size': 2,
                'train_dataloader.dataset.data_root': files,
                'train_dataloader.dataset.data_prefix.img_path': 'content',
                'train_dataloader.dataset.pipeline.1.scale': '(24,24)',
                'test_dataloader.dataset.data_root': files,
                'test_dataloader.dataset.data_prefix.img_path': 'content',
                'test_dataloader.dataset.pipeline.1.scale': '(36,28)',
                'train_cfg.max_iters': 4,
                'default_hooks.checkpoint.interval': 2,
                'default_hooks.logger.interval': 1,
            },
            **dict(options),
        )
        words = [f'{key}={value}' for key, value in given.items()] if command in ('train', 'test') else []
        in_fork(log, command, *arguments, *(['--cfg-options', *words] if words else []), expected=expected)
        return log.read_text()

    return run


@pytest.fixture(scope='module')
def trained(files, run):
    output = run('train', CONFIG, '--work-dir', files / 'sn')
    assert 'loss_style' in output
    return files / 'sn'


def test_killed_and_resumed_is_uninterrupted(files, run, trained, monkeypatch):
    """SIGKILL at the third of four iterations."""
    after_iteration = CheckpointHook.after_train_iter

    def kill(hook, runner, batch_idx, *args, **kwargs):
        after_iteration(hook, runner, batch_idx, *args, **kwargs)
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(CheckpointHook, 'after_train_iter', kill)
    run('train', CONFIG, '--work-dir', files / 'resumed', expected=-signal.SIGKILL)
    monkeypatch.undo()
    assert not (files / 'resumed/iter_4.pth').exists()
    assert 'resumed epoch: 0, iter: 2' in run('train', CONFIG, '--work-dir', files / 'resumed', '--resume')
    whole, resumed = (torch.load(f / 'iter_4.pth', weights_only=False) for f in (trained, files / 'resumed'))
    assert all(torch.equal(value, resumed['state_dict'][name]) for name, value in whole['state_dict'].items())
    before = torch.load(trained / 'iter_2.pth', weights_only=False)['state_dict']
    assert not torch.equal(before['network.last.weight'], whole['state_dict']['network.last.weight'])


def test_losses_and_pictures_of_a_test(files, run, trained):
    out, shown = files / 'metrics.json', files / 'shown'
    run('test', CONFIG, trained / 'iter_4.pth', '--work-dir', files / 'test', '--out', out, '--show-dir', shown)
    metrics = json.loads(out.read_text())
    assert metrics['loss'] == pytest.approx(sum(v for k, v in metrics.items() if k != 'loss'))
    assert {path.name for path in shown.iterdir()} == {'0.png', '1.png', '2.png', '3.png'}
    assert Image.open(shown / '0.png').size == (3 * 36, 28)
    left = np.asarray(Image.open(shown / '1.png'), dtype=float)[:, :36]
    content = np.asarray(Image.open(files / 'content/1.png').resize((36, 28), Image.BILINEAR, reducing_gap=None))
    # The content, in its colours: BGR would be far off.
    assert abs(left - content).mean() < abs(left[..., ::-1] - content).mean()


def test_figures(files, run, trained):
    for command, arguments in {
        'losses': (trained, trained / 'iter_4.pth', '--names', 'a', 'b', '--smooth', '2'),
        'weights': (trained / 'iter_4.pth',),
    }.items():
        run('analyze', command, *arguments, '--out', files / f'{command}.png')
        assert (files / f'{command}.png').stat().st_size > 5000
    assert 'no loss is called' in run(
        'analyze', 'losses', trained, '--losses', 'los', '--out', files / 'x.png', expected=2
    )


def stylized(files, run, trained, image, *arguments):
    run('stylize', trained / 'iter_4.pth', files / image, files / 'out.png', *arguments)
    return Image.open(files / 'out.png')


def test_stylize_any_image(files, run, trained):
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 256, (31, 45), dtype=np.uint8)).save(files / 'grey.png')
    Image.fromarray(random.integers(0, 65536, (31, 45), dtype=np.uint16)).save(files / 'deep.png')
    rgba = random.integers(0, 256, (18, 23, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(files / 'rgba.png')
    grey = stylized(files, run, trained, 'grey.png')
    assert (grey.mode, grey.size) == ('RGB', (45, 31))
    assert stylized(files, run, trained, 'deep.png').size == (45, 31)
    result = stylized(files, run, trained, 'rgba.png')
    assert result.size == (23, 18)
    np.testing.assert_array_equal(np.asarray(result)[..., 3], rgba[..., 3])
    assert stylized(files, run, trained, 'rgba.png', '--size', '36').size == (46, 36)
    run('stylize', trained / 'iter_4.pth', files / 'rgba.png', files / 'out.jpg')
    assert Image.open(files / 'out.jpg').mode == 'RGB'


def test_pictures_are_read_as_they_are(files):
    levels = np.array([[0, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(files / 'levels.png')
    torch.testing.assert_close(
        read_picture(files / 'levels.png', '').rgb, torch.tensor([0, 32768 / 65535, 1]).expand(3, 1, 3)
    )
    turned = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(files / 'turned.jpg', exif=exif)
    assert read_picture(files / 'turned.jpg', '').rgb.shape == (3, 6, 4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.loss.style_image': 'none.jpg'}, 'there is no'),
        ({'model.loss.vgg': 'nowhere.pth'}, 'checkpoint not found'),
        ({'train_dataloader.dataset.data_prefix.img_path': 'empty'}, 'no images in'),
        ({'train_dataloader.dataset.data_prefix.img_path': 'nothing'}, 'data not found'),
    ],
)
def test_wrong_input_gets_one_message(files, run, options, message):
    output = run('train', CONFIG, '--work-dir', files / 'wrong', options=options, expected=2)
    assert output.count('error: ') == 1
    assert message in output
    assert 'Traceback' not in output


def test_wrong_images_get_one_message(files, run, trained):
    for image, message in (('none.png', 'there is no'), ('words.png', 'cannot be read as an image')):
        output = run('stylize', trained / 'iter_4.pth', files / image, files / 'out.png', expected=2)
        assert output.count('error: ') == 1
        assert message in output
    assert 'VGG16' not in run('stylize', files / 'vgg19.pth', files / 'style.jpg', files / 'out.png', expected=2)
