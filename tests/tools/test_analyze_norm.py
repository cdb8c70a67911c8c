"""tools/analyze_norm.py: from the user's end, on a tiny network that the project's own tools have trained."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmnorm
from mmnorm.analysis import load_record
from mmnorm.analysis.figures.weights import parts_figure
from mmnorm.datasets import write_layout
from mmnorm.datasets.writers import IMAGENET_CLASSES

ROOT = Path(__file__).resolve().parents[2]


def run_main(name, *arguments):
    """The main function of a tool in this process, as a user would call it."""
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / f'tools/{name}.py'))['main']()
    finally:
        sys.argv = before


def config_of(root, norm, iterations):
    """A narrow ResNet-18 on the ImageNet layout."""

    def loader(split):
        dataset = dict(
            type='CustomDataset',
            data_root=str(root),
            ann_file=f'meta/{split}.txt',
            data_prefix=split,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
            classes=list(IMAGENET_CLASSES),
        )
        return dict(batch_size=4, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))

    backbone = dict(type='ResNet', depth=18, stem_channels=16, base_channels=16, norm_cfg=dict(type=norm))
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=128, loss=dict(type='CrossEntropyLoss')),
            ),
            data_preprocessor=dict(num_classes=10, mean=[128] * 3, std=[64] * 3, to_rgb=True),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='Accuracy', topk=(1,)),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=False, max_iters=iterations, val_interval=1000),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            custom_hooks=[dict(type='NormRatioHook', interval=1)],
            custom_imports=dict(imports=['mmnorm']),
            randomness=dict(seed=0),
        )
    )


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    """A folder with the runs en and bn: configs, checkpoints, logs."""
    folder = tmp_path_factory.mktemp('work')
    root, _ = write_layout('imagenet', folder, train=8, val=16, size=(32, 32))
    for norm, iterations in {'EN': 4, 'BN': 2}.items():
        config = folder / f'resnet18_{norm.lower()}.py'
        config_of(root, norm, iterations).dump(config)
        run_main('train', config, '--work-dir', folder / norm.lower())
    return folder


@pytest.fixture(scope='module')
def recorded(work):
    """A record of the last checkpoint of EN."""
    out = work / 'en.npz'
    run_main('analyze_norm', 'record', work / 'en/iter_4.pth', '--out', out)
    return out


def test_images_are_prepared_as_in_training(work, monkeypatch):
    """The data_preprocessor of mmpretrain's configs stands beside the model."""
    seen = []
    forward = mmnorm.ExemplarNorm2d.forward

    def watch(layer, x):
        seen.append(x.abs().max().item())
        return forward(layer, x)

    monkeypatch.setattr(mmnorm.ExemplarNorm2d, 'forward', watch)
    runs = {}
    for std in ([64] * 3, [6400] * 3):
        out = work / f'prepared_{std[0]}.npz'
        options = ['--cfg-options', f'data_preprocessor.std={std}'.replace(' ', '')]
        run_main('analyze_norm', 'record', work / 'en/iter_4.pth', '--out', out, *options)
        runs[std[0]] = seen[0]
        seen.clear()
    assert runs[64] == pytest.approx(100 * runs[6400])


def test_record(work, recorded):
    record = load_record(recorded)
    assert record.title == 'iteration 4'
    assert record.samples == 16
    assert record.classes == IMAGENET_CLASSES
    assert len(record.layers) == 20
    annotations = (work / 'imagenet/meta/val.txt').read_text().splitlines()
    assert sorted(record.labels) == sorted(int(line.split()[-1]) for line in annotations)
    assert all(layer.values['ratios'].shape == (16, 3) for layer in record.layers)
    state_dict = torch.load(work / 'en/iter_4.pth', weights_only=False)['state_dict']
    trained = state_dict['backbone.bn1.fc2_bias'].softmax(0).numpy()
    # A few steps move the ratios little; untrained ones are uniform to the last bits.
    assert np.abs(trained - 1 / 3).max() > 3e-6, 'something was learned'
    assert np.abs(record.layers[0].values['mean'] - 1 / 3).max() > 3e-6


@pytest.mark.parametrize('command', ['weights', 'parts', 'layers', 'classes', 'images', 'tsne'])
def test_each_figure_of_a_record(command, recorded, tmp_path):
    out = tmp_path / f'{command}.pdf'
    run_main('analyze_norm', command, recorded, '--out', out)
    assert out.read_bytes().startswith(b'%PDF')


def test_from_checkpoints(work, tmp_path):
    options = ['--max-samples', 8, '--num-images', 2]
    run_main('analyze_norm', 'weights', work / 'en/iter_2.pth', '--out', tmp_path / 'weights.png', *options)
    assert (tmp_path / 'weights.png').read_bytes().startswith(b'\x89PNG')
    dynamics = ['dynamics', work / 'en', '--out', tmp_path / 'dynamics.svg']
    run_main('analyze_norm', *dynamics, '--layers', 'backbone.layer1.0.bn1')
    logged = (tmp_path / 'dynamics.svg').read_text()
    assert '>iteration<' in logged
    assert '>layer1.0.bn1<' in logged
    run_main('analyze_norm', *dynamics, '--from-checkpoints', *options)
    assert (tmp_path / 'dynamics.svg').read_text() != logged
    config = ['--config', work / 'resnet18_en.py', '--data', 'train']
    run_main('analyze_norm', 'report', work / 'en', '--out', tmp_path / 'report.html', *config, *options)
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<img') == 7
    assert 'iteration 4: 20 EN layers, 8 samples' in page


def test_samples_of_classes_alone(work, recorded, tmp_path, monkeypatch):
    """From a checkpoint only they are run; of a record only they are taken."""
    wanted = [IMAGENET_CLASSES[2], '5']
    seen = {}

    def keep(name):
        def figure(records, *arguments, **options):
            seen[name] = records[0] if isinstance(records, list) else records
            return parts_figure(seen[name])

        return figure

    monkeypatch.setattr('mmnorm.analysis.figures.tsne.tsne_figure', keep('tsne'))
    monkeypatch.setattr('mmnorm.analysis.figures.ratios.images_figure', keep('images'))
    everything = load_record(recorded)
    expected = np.flatnonzero(np.isin(everything.labels, [2, 5]))
    for source in (recorded, work / 'en/iter_4.pth'):
        for command in ('tsne', 'images'):
            run_main('analyze_norm', command, source, '--classes', *wanted, '--out', tmp_path / 'x.png')
            found = seen[command]
            assert set(found.labels) <= {2, 5}
            assert found.samples == len(found.labels) == len(expected) > 0
            ratios = found.layers[3].values['ratios']
            np.testing.assert_allclose(
                np.sort(ratios, 0), np.sort(everything.layers[3].values['ratios'][expected], 0), atol=1e-6
            )
            assert len(found.images) == len(found.image_index) == len(expected)


def test_dynamics_of_classes(work, tmp_path):
    options = ['--classes', *IMAGENET_CLASSES[:2], '--num-layers', 2, '--out', tmp_path / 'x.svg']
    run_main('analyze_norm', 'dynamics', work / 'en', *options)
    drawn = (tmp_path / 'x.svg').read_text()
    for text in (*IMAGENET_CLASSES[:2], 'iteration', 'ratio of LN'):
        assert f'>{text}<' in drawn
    run_main(
        'analyze_norm', 'dynamics', work / 'en', '--from-checkpoints', '--num-layers', 3, '--out', tmp_path / 'y.svg'
    )
    assert (tmp_path / 'y.svg').exists()


def test_what_is_wrong(work, recorded, refuse, tmp_path):
    def refused(*arguments, out='x.pdf'):
        message = refuse('analyze_norm', *arguments, '--out', tmp_path / out)
        assert not list(tmp_path.iterdir()), 'nothing is written'
        return message

    checkpoint = work / 'en/iter_4.pth'
    message = refused('weights', work / 'bn/iter_2.pth')
    assert 'no EN, ILM, SN, SSN, IEBN, RBN or SelfNorm layer to look at; its norms are BatchNorm2d' in message
    assert '--num-layers: expected at least 1, got 0' in refused('dynamics', work / 'en', '--num-layers', 0)
    assert 'the data set has no sample of class cat; its' in refused('tsne', checkpoint, '--classes', 'cat')
    message = refused('weights', work / 'bn/iter_2.pth', '--config', work / 'resnet18_en.py')
    assert 'no weights of EN' in message
    assert 'backbone.bn1.conv_weight' in message
    message = refused('classes', recorded, '--layers', 'backbone.layer1.0.bn9')
    assert "no layer is called 'backbone.layer1.0.bn9'. Nearest: backbone.layer1.0.bn" in message
    assert 'no sample of class ten; its' in refused('classes', recorded, '--classes', 'ten')
    assert 'has no ILM, IEBN, RBN or SelfNorm layer' in refused('affine', recorded)
    assert 'checkpoint not found' in refused('weights', tmp_path / 'none.pth')
    assert 'record not found' in refused('weights', tmp_path / 'none.npz')
    assert 'is a folder; expected a checkpoint' in refused('weights', work / 'en')
    assert 'no checkpoint (epoch_*.pth, iter_*.pth) in' in refused('tsne', tmp_path)
    assert 'no vis_data/scalars.json in' in refused('dynamics', tmp_path)
    assert 'written to .pdf, .png, .svg' in refused('weights', recorded, out='x.doc')
    assert '.html file' in refused('report', recorded, out='x.pdf')
    assert 'a record is an .npz file' in refused('record', checkpoint, out='x.pdf')
    assert 'the config has no test_dataloader; it has val' in refused('weights', checkpoint, '--data', 'test')
    assert 'expected one for each of 1 sources, got 2' in refused('layers', recorded, '--names', 'a', 'b')
    assert 'is for the command record' in refused('weights', recorded, '--launcher', 'pytorch')
    option = 'val_dataloader.dataset.data_root=/nowhere'
    assert 'data not found: /nowhere' in refused('weights', checkpoint, '--cfg-options', option)
    for cause, message in {
        'dataset.indices=0': 'the data set of val_dataloader is empty',
        'drop_last=True': 'the loader (DataLoader) is empty',
    }.items():
        options = [f'val_dataloader.{cause}', 'val_dataloader.batch_size=99']
        assert message in refused('record', checkpoint, '--cfg-options', *options, out='x.npz')
    message = refuse('analyze_norm', 'record', checkpoint, '--out', recorded)
    assert 'exists. Give --force' in message
    weights = tmp_path / 'weights.pth'
    torch.save({'state_dict': torch.load(checkpoint, weights_only=False)['state_dict']}, weights)
    assert 'give its config with --config' in refuse('analyze_norm', 'weights', weights, '--out', 'x.pdf')
