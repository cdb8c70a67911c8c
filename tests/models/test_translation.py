"""pix2pix: the networks and losses against plain ones, and the way from a folder of pairs to pictures and figures."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import in_fork
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import nn
from torch.nn import functional as F

import mmnorm
from mmnorm.errors import UsageError
from mmnorm.models import PatchDiscriminator, UNetGenerator
from mmnorm.models.translation.blocks import NoisyDropout

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/demo/pix2pix_ilm_in_digits.py'
ILM = dict(type='ILM', base='IN', key_group_size=1, init='normal')
OPTIMIZERS = dict(
    constructor='PartsOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.999)),
    parts=dict(generator=dict(), discriminator=dict()),
)


def layers(network, *kinds):
    return [m for m in network.modules() if isinstance(m, kinds)]


@pytest.mark.parametrize('norm', ['BN', 'IN', 'GN', 'SN', 'EN', 'ILM'])
def test_every_norm(norm):
    norm_cfg = dict(type=norm, num_groups=4) if norm == 'GN' else dict(type=norm)
    x = 2 * torch.rand(2, 3, 64, 32) - 1
    generator = UNetGenerator(norm_cfg, num_downs=4, channels=4)
    y = generator(x)
    assert y.shape == x.shape
    assert y.abs().max() < 1
    judged = PatchDiscriminator(norm_cfg, channels=4)(x, y)
    assert judged.shape == (2, 1, 6, 2)
    judged.sum().backward()
    assert all(p.grad is not None for p in generator.parameters())


def test_the_networks_of_the_paper():
    """Isola et al., 6.1: C64 to C512, CD512 to C64; no norm in the first, innermost and last; C64-C128-C256-C512."""
    generator, discriminator = UNetGenerator(), PatchDiscriminator()
    down = [block.conv.out_channels for block in generator.down]
    assert down == [64, 128, 256, 512, 512, 512, 512, 512]
    up = [(block.conv.in_channels, block.conv.out_channels) for block in generator.up]
    assert up == [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    has_dropout = [isinstance(block.dropout, NoisyDropout) for block in generator.up]
    assert has_dropout == [True] * 3 + [False] * 5
    assert [bool(block.norm_name) for block in generator.down] == [False, *[True] * 6, False]
    assert [bool(block.norm_name) for block in generator.up] == [True] * 7 + [False]
    assert [block.conv.out_channels for block in discriminator.blocks] == [64, 128, 256, 512, 1]
    assert [bool(block.norm_name) for block in discriminator.blocks] == [False, True, True, True, False]
    # No convolution before a norm has a bias, all others have one.
    for block in (*generator.down, *generator.up, *discriminator.blocks):
        assert (block.conv.bias is None) == bool(block.norm_name)
    assert all(norm.affine for norm in layers(generator, nn.InstanceNorm2d))
    # "54.4 M" and "2.8 M" are the figures of the authors' code, whose convolutions before IN have biases, not IN.
    assert sum(p.numel() for p in generator.parameters()) == pytest.approx(54.4e6, rel=1e-3)
    assert sum(p.numel() for p in discriminator.parameters()) == pytest.approx(2.77e6, rel=2e-3)


def test_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    generator = UNetGenerator(ILM, num_downs=5, channels=16)
    generator.init_weights()
    for conv in layers(generator, nn.Conv2d, nn.ConvTranspose2d):
        assert conv.bias is None or not conv.bias.any()
        if conv.weight.numel() > 1000:
            assert conv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    norms = layers(generator, mmnorm.InstanceMetaNorm2d)
    assert all(norm.weight.eq(1).all() and norm.encoder_weight.std() > 0.5 for norm in norms)


def test_key_groups_are_single_channels():
    generator = UNetGenerator(ILM, num_downs=5, channels=8)
    norms = layers(generator, mmnorm.InstanceMetaNorm2d)
    assert len(norms) == 7
    assert all(norm.key_group_size == 1 and norm.encoder_weight.shape[1] == norm.num_features for norm in norms)


@pytest.mark.parametrize(('num_downs', 'side'), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_the_patch(num_downs, side):
    """What a value of the discriminator depends on, seen by its gradient."""
    discriminator = PatchDiscriminator(dict(type='BN'), num_downs, channels=2).double().eval()
    x = torch.rand(1, 3, 192, 192, dtype=torch.float64, requires_grad=True)
    judged = discriminator(x, x.detach())
    judged[0, 0, judged.shape[2] // 2, judged.shape[3] // 2].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    columns = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert (len(rows), len(columns)) == (side, side)
    assert rows[-1] - rows[0] == side - 1


def plain_unet(network, x):
    """The same as a recursion, as the authors' code has it: from outside to inside and back."""

    def norm(block, x):
        if not block.norm_name:
            return x
        m = block.get_submodule(block.norm_name)
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * m.weight.view(1, -1, 1, 1) + m.bias.view(1, -1, 1, 1)

    def level(i, x):
        down, up = network.down[i], network.up[len(network.up) - 1 - i]
        before = F.leaky_relu(x, 0.2) if i else x
        inside = norm(down, F.conv2d(before, down.conv.weight, down.conv.bias, 2, 1))
        if i + 1 < len(network.down):
            inside = level(i + 1, inside)
        y = norm(up, F.conv_transpose2d(F.relu(inside), up.conv.weight, up.conv.bias, 2, 1))
        return torch.cat([y, x], 1) if i else y

    return torch.tanh(level(0, x))


def test_against_the_plain_generator():
    network = UNetGenerator(num_downs=4, channels=3, dropout=0.0).double()
    x = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain_unet(network, x), rtol=1e-10, atol=1e-12)


def test_the_noise_of_tests():
    x = torch.rand(1, 3, 32, 32)
    for in_test in (True, False):
        network = UNetGenerator(num_downs=4, channels=4, dropout_in_test=in_test).eval()
        with torch.no_grad():
            assert torch.equal(network(x), network(x)) != in_test


@pytest.mark.parametrize(('size', 'halvings'), [((48, 64), 4), ((64, 33), 2), ((100, 132), 2)])
def test_sizes_that_do_not_fit(size, halvings):
    message = f'multiples of 32; got {size[0]}x{size[1]}.*num_downs={halvings}$'
    with pytest.raises(UsageError, match=message):
        UNetGenerator(num_downs=5, channels=2)(torch.zeros(1, 3, *size))
    x = torch.zeros(1, 3, 23, 60)
    with pytest.raises(UsageError, match='at least 24x24, got 23x60'):
        PatchDiscriminator(channels=2)(x, x)
    assert PatchDiscriminator(channels=2)(*[torch.zeros(1, 3, 24, 24)] * 2).shape[2:] == (1, 1)


def test_networks_that_cannot_be():
    for cls, least in ((UNetGenerator, 2), (PatchDiscriminator, 1)):
        with pytest.raises(UsageError, match=f'num_downs is {least - 1}, expected at least {least}'):
            cls(num_downs=least - 1)


def small_model(norm_cfg=None, dropout=0.0, **settings):
    generator = dict(type='UNetGenerator', norm_cfg=norm_cfg, num_downs=3, channels=4, dropout=dropout)
    discriminator = dict(type='PatchDiscriminator', num_downs=2, channels=4)
    return MODELS.build(dict(type='Pix2Pix', generator=generator, discriminator=discriminator, **settings))


def batch(count=2, size=(16, 24)):
    torch.manual_seed(0)
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(count)]
    samples = [BaseDataElement(target=torch.randint(256, (3, *size), dtype=torch.uint8)) for _ in range(count)]
    return dict(inputs=inputs, data_samples=samples)


def images_of(data):
    """Input (the batch has BGR) and target, from -1 to 1."""
    source = torch.stack(data['inputs']).double()[:, [2, 1, 0]] / 127.5 - 1
    return source, torch.stack([sample.target for sample in data['data_samples']]).double() / 127.5 - 1


def test_losses_against_the_formula():
    model, data = small_model(l1_weight=10.0).double(), batch()
    source, target = images_of(data)
    result = model.generator(source)
    real, fake = (torch.sigmoid(model.discriminator(source, y)) for y in (target, result))
    expected = dict(
        loss_real=-real.log().mean() / 2,
        loss_fake=-(1 - fake).log().mean() / 2,
        loss_gan=-fake.log().mean(),
        loss_l1=10 * (result - target).abs().mean(),
    )
    samples = data['data_samples']
    found = model((source + 1) / 2, samples, mode='loss')
    torch.testing.assert_close({k: v.double() for k, v in found.items()}, expected, rtol=1e-5, atol=1e-6)


def test_a_step_is_the_two_updates_in_turn():
    """By hand: the discriminator first, then the generator against the discriminator that has just learned."""
    model, by_hand, data = small_model(ILM), small_model(ILM), batch()
    by_hand.load_state_dict(model.state_dict())
    wrappers = build_optim_wrapper(model, OPTIMIZERS)
    optimizers = {
        name: torch.optim.Adam(getattr(by_hand, name).parameters(), lr=2e-4, betas=(0.5, 0.999))
        for name in ('generator', 'discriminator')
    }
    source, target = (images.float() for images in images_of(data))
    for _ in range(3):
        log = model.train_step(data, wrappers)
        result = by_hand.generator(source)
        for name, losses in (
            ('discriminator', lambda: by_hand.discriminator_losses(source, target, result)),  # noqa: B023
            ('generator', lambda: by_hand.generator_losses(source, target, result)),  # noqa: B023
        ):
            optimizers[name].zero_grad()
            found = losses()
            sum(found.values()).backward()
            optimizers[name].step()
            for key, value in found.items():
                torch.testing.assert_close(log[key], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log['loss'], log['loss_gan'] + log['loss_l1'])
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=1e-4, atol=1e-5)


def test_updates_change_their_part_alone():
    for part, other in (('generator', 'discriminator'), ('discriminator', 'generator')):
        model = small_model()
        parts = {part: dict(), other: dict(optimizer=dict(type='Adam', lr=0.0))}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        model.train_step(batch(), build_optim_wrapper(model, {**OPTIMIZERS, 'parts': parts}))
        changed = {name.split('.')[0] for name, v in model.state_dict().items() if not torch.equal(v, before[name])}
        assert changed == {part}
        assert all(p.requires_grad for p in model.parameters())


def test_predictions_and_pictures():
    model, data = small_model().eval(), batch()
    samples = model.test_step(data)
    source, target = images_of(data)
    for sample, x, y in zip(samples, source, target, strict=True):
        pictures = model.pictures(sample)
        for picture, expected in zip(pictures, (x, model.generator(x[None].float())[0], y), strict=True):
            torch.testing.assert_close(picture.double(), (expected.double() + 1) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model((source.float() + 1) / 2)[0], samples[0].result)


def test_what_it_learns_from_is_checked():
    model, data = small_model(), batch()
    single = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1.0)))
    with pytest.raises(UsageError, match="two optimizers: optim_wrapper=dict.constructor='PartsOptim"):
        model.train_step(data, single)
    del data['data_samples'][0].target
    with pytest.raises(UsageError, match='samples with a target'):
        model.train_step(data, build_optim_wrapper(model, OPTIMIZERS))


def test_batch_averages_of_a_model_of_parts():
    """BatchAverageHook runs the model in the context of an optimizer, of which there are two."""
    from mmnorm.engine.batch_average_hook import _forward_of

    model = small_model(dict(type='BN'))
    runner = type('Runner', (), dict(optim_wrapper=build_optim_wrapper(model, OPTIMIZERS)))
    losses = _forward_of(runner)(model, batch())
    assert set(losses) == {'loss_real', 'loss_fake', 'loss_gan', 'loss_l1'}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Six pairs: label maps, and pictures in which the class is the brightness."""
    folder = tmp_path_factory.mktemp('translation')
    random = np.random.default_rng(0)
    for side in ('labels', 'photos', 'odd'):
        (folder / side).mkdir()
    for i in range(6):
        labels = random.integers(0, 5, (4, 5)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
        Image.fromarray(labels).save(folder / f'labels/{i}.png')
        picture = np.stack([labels * 50, labels * 25, 255 - labels * 40], 2) + random.integers(0, 5, (48, 60, 1))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f'photos/{i}.png')
        Image.fromarray(picture.astype(np.uint8)).save(folder / f'odd/{i}x.png')
    return folder


@pytest.fixture(scope='module')
def run(files):
    """Run train or test; returns what it said. ``words`` are what the command line gets."""

    def words(options=()):
        given = {
            'model.generator.num_downs': 3,
            'model.generator.channels': 4,
            'model.discriminator.channels': 4,
            'train_cfg.max_epochs': 4,
            'default_hooks.logger.interval': 1,
        }
        for loader in ('train_dataloader', 'test_dataloader'):
            given[f'{loader}.dataset.data_root'] = files
            given[f'{loader}.dataset.data_prefix.source'] = 'labels'
            given[f'{loader}.dataset.data_prefix.target'] = 'photos'
            given[f'{loader}.dataset.pipeline.1.scale'] = '(32,24)'
        given.update(options)
        return ['--cfg-options', *(f'{key}={value}' for key, value in given.items())]

    def run(command, *arguments, options=(), expected=0):
        log = files / 'log.txt'
        own = words(options) if command in ('train', 'test') else ()
        in_fork(log, command, *arguments, *own, expected=expected)
        return log.read_text()

    run.words = words
    return run


@pytest.fixture(scope='module')
def trained(files, run):
    output = run('train', CONFIG, '--work-dir', files / 'whole')
    assert 'generator.lr: 2.0000e-04 discriminator.lr: 2.0000e-04' in output
    # Half of the epochs constant, then in a line to 0, which a fifth epoch would have.
    for rate in ('1.3333e-04', '6.6667e-05'):
        assert f'generator.lr: {rate} discriminator.lr: {rate}' in output
    return files / 'whole'


def states(checkpoint):
    content = torch.load(checkpoint, weights_only=False)
    moments = {
        (part, i, name): value
        for part, state in content['optimizer'].items()
        for i, entry in state['state'].items()
        for name, value in entry.items()
    }
    return {**content['state_dict'], **moments}


def test_killed_and_resumed_is_uninterrupted(files, run, trained):
    """SIGKILL in the middle; the weights and both optimizers end as without."""
    log, work_dir = files / 'killed.txt', files / 'killed'
    process = os.fork()
    if not process:
        in_fork(log, 'train', CONFIG, '--work-dir', work_dir, *run.words({'default_hooks.logger.interval': 1}))
        os._exit(0)
    try:
        for _ in range(3000):
            if (work_dir / 'epoch_1.pth').is_file() and (work_dir / 'last_checkpoint').is_file():
                break
            time.sleep(0.02)
    finally:
        # The fork's own child is the training.
        children = Path(f'/proc/{process}/task/{process}/children').read_text().split()
        for child in (*map(int, children), process):
            os.kill(child, signal.SIGKILL)
        os.waitpid(process, 0)
    assert not (work_dir / 'epoch_4.pth').exists()
    run('train', CONFIG, '--work-dir', work_dir, '--resume')
    whole, resumed = states(trained / 'epoch_4.pth'), states(work_dir / 'epoch_4.pth')
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert not torch.equal(*(states(trained / f'epoch_{i}.pth')['generator.up.0.conv.weight'] for i in (2, 4)))


def test_figures_and_pictures_of_a_test(files, run, trained):
    pytest.importorskip('skimage')
    out, shown = files / 'metrics.json', files / 'shown'
    arguments = (CONFIG, trained / 'epoch_4.pth', '--work-dir', files / 'test', '--out', out, '--show-dir', shown)
    run('test', *arguments, options={'test_evaluator.measures': '[ssim,rmse]'})
    metrics = json.loads(out.read_text())
    assert set(metrics) == {'ssim', 'rmse'}
    rmse = []
    for path in sorted(shown.iterdir()):
        row = np.asarray(Image.open(path), dtype=float)
        assert row.shape == (24, 3 * 32, 3)
        source, result, target = np.split(row, 3, axis=1)
        rmse.append(np.sqrt(np.mean((result - target) ** 2)))
        # RGB as in the file, not BGR.
        photo = np.asarray(Image.open(files / f'photos/{path.stem}.png').resize((32, 24), Image.BOX), dtype=float)
        assert abs(target - photo).mean() < 6
        assert len(np.unique(source.reshape(-1, 3), axis=0)) >= 3
    assert len(rmse) == 6
    # The pictures are rounded to 8 bits.
    assert metrics['rmse'] == pytest.approx(np.mean(rmse), abs=0.5)
    run('analyze', 'losses', trained, '--out', files / 'losses.png')
    assert (files / 'losses.png').stat().st_size > 5000


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train_dataloader.dataset.data_prefix.target': 'odd'}, '0 do, and 12 do not, such as 0, 1, 2'),
        ({'train_dataloader.dataset.data_prefix.target': 'nothing'}, 'data not found'),
        ({'train_dataloader.dataset.indices': '7'}, 'there are 6 pairs'),
        ({'train_dataloader.dataset.pipeline.1.scale': '(30,24)'}, 'multiples of 8; got 24x30'),
        ({'optim_wrapper.parts': '{}'}, 'optim_wrapper.parts'),
    ],
)
def test_wrong_input_gets_one_message(files, run, options, message):
    output = run('train', CONFIG, '--work-dir', files / 'wrong', options=options, expected=2)
    assert output.count('error: ') == 1
    assert message in output
    assert 'Traceback' not in output
