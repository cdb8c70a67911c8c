"""What mmengine's Runner writes is read as data and resumed from; what it is given is never unpickled."""

import hostile
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

import mmnorm
from mmnorm.cli.own_reader import use_own_reader
from mmnorm.errors import UsageError
from mmnorm.files import read_checkpoint


@pytest.fixture(autouse=True)
def _mmengine_as_before(monkeypatch):
    """The tests beside these have mmengine's own loaders."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(mmengine_checkpoint, 'load_url', mmengine_checkpoint.load_url)


@DATASETS.register_module(name='LoaderTestData')
class Data(torch.utils.data.Dataset):
    def __init__(self, metainfo):
        # From a config its dicts are ConfigDicts.
        self.metainfo = {**metainfo, 'array': np.arange(6).reshape(2, 3)}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(3, 4, 4, generator=generator))


@MODELS.register_module(name='LoaderTestNet')
class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), mmnorm.ExemplarNorm2d(4)

    def forward(self, inputs, mode='tensor'):
        y = self.norm(self.conv(inputs)).square().mean()
        return {'loss': y} if mode == 'loss' else y


@HOOKS.register_module(name='LoaderTestHook')
class More(Hook):
    def before_train(self, runner):
        runner.message_hub.update_info('a tensor', torch.ones(2))
        runner.message_hub.update_info('an array', np.arange(3))

    def before_save_checkpoint(self, runner, checkpoint):
        """What AmpOptimWrapper adds, for which it wants a GPU."""
        scaler = dict(scale=65536.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000, _growth_tracker=3)
        checkpoint['optimizer'] = {**checkpoint['optimizer'], 'loss_scaler': scaler}


METAINFO = dict(classes=('a', 'b'), palette=[(1, 2, 3)], label_map=dict(old=0))


def runner_of(work_dir, name, **more):
    # Their states hold a function, a Counter and numbers of NumPy.
    schedules = [
        dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False),
        dict(type='MultiStepLR', milestones=[2, 3], by_epoch=False, begin=1),
        dict(type='CosineAnnealingMomentum', T_max=4, by_epoch=False),
        dict(type='PolyLR', eta_min=1e-4, begin=0, end=8, by_epoch=False),
    ]
    cfg = dict(
        model=dict(type='LoaderTestNet'),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            dataset=dict(type='LoaderTestData', metainfo=METAINFO),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='InfiniteSampler', shuffle=False),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=1)),
        param_scheduler=schedules,
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[dict(type='EMAHook'), dict(type='LoaderTestHook')],
        randomness=dict(seed=0),
        experiment_name=name,
        default_scope='mmengine',
        **more,
    )
    return Runner.from_cfg(Config(cfg))


def test_a_run_is_resumed_from_what_it_wrote(tmp_path):
    use_own_reader()
    whole = runner_of(tmp_path / 'whole', 'whole')
    whole.train()
    path = str(tmp_path / 'whole/iter_2.pth')
    written = torch.load(path, weights_only=False)
    read = read_checkpoint(path)
    assert list(read) == list(written)
    assert {'ema_state_dict', 'param_schedulers', 'message_hub', 'optimizer', 'meta'} <= set(read)
    assert callable(written['param_schedulers'][0]['anneal_func'])

    loaded = CheckpointLoader.load_checkpoint(path, 'cpu')
    for name, buffer in written['message_hub']['log_scalars'].items():
        again = loaded['message_hub']['log_scalars'][name]
        assert type(again) is HistoryBuffer
        assert np.array_equal(again.data, buffer.data)
        assert again.statistics('mean') == buffer.mean()
    assert loaded['param_schedulers'] == written['param_schedulers']
    assert loaded['optimizer']['loss_scaler'] == written['optimizer']['loss_scaler']
    assert loaded['message_hub']['runtime_info']['an array'].tolist() == [0, 1, 2]
    meta = loaded['meta']['dataset_meta']
    assert meta.pop('array').tolist() == [[0, 1, 2], [3, 4, 5]]
    assert meta == METAINFO

    resumed = runner_of(tmp_path / 'resumed', 'resumed', load_from=path, resume=True)
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert resumed.model.state_dict()[name].equal(value), name
    for name, value in whole.optim_wrapper.state_dict()['state'].items():
        assert resumed.optim_wrapper.state_dict()['state'][name]['momentum_buffer'].equal(value['momentum_buffer'])
    losses = [runner.message_hub.log_scalars['train/loss'].data[0] for runner in (whole, resumed)]
    assert losses[0].tolist() == losses[1].tolist()
    assert len(losses[0]) == 4


@pytest.mark.parametrize('codebase', ['mmseg', 'mmdet', 'mmpretrain'])
def test_what_the_codebases_write_about_their_data(codebase, tmp_path):
    datasets = pytest.importorskip(f'{codebase}.datasets')
    path = str(tmp_path / 'c.pth')
    metas = {name: cls.METAINFO for name, cls in vars(datasets).items() if getattr(cls, 'METAINFO', None)}
    assert len(metas) > 5
    for kept in (lambda meta: meta, ConfigDict):
        torch.save({'meta': {name: {'dataset_meta': kept(meta)} for name, meta in metas.items()}}, path)
        read = read_checkpoint(path)['meta']
        assert {name: meta['dataset_meta'] for name, meta in read.items()} == metas


@pytest.fixture
def marked(tmp_path):
    """A hostile file; afterwards nothing may have been run."""
    marker = tmp_path / 'marker'
    yield hostile.write(tmp_path / 'c.pth', hostile.attacks(marker)['globals of a method'], 'zip')
    assert not marker.exists()


def test_every_address(marked, tmp_path, monkeypatch):
    """What was downloaded lies in PyTorch's cache; no network is asked."""
    use_own_reader()
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    names = {'https://example.com/some.pth?download=1': 'some.pth'}
    for scheme, urls, model in [
        ('torchvision', mmengine_checkpoint.get_torchvision_models(), 'resnet18'),
        ('open-mmlab', mmengine_checkpoint.get_external_models(), 'detectron2/resnet50_caffe'),
        ('openmmlab', mmengine_checkpoint.get_external_models(), 'detectron2/resnet50_caffe'),
        ('mmcls', mmengine_checkpoint.get_mmcls_models(), 'resnet18'),
    ]:
        names[f'{scheme}://{model}'] = urls[model].rpartition('/')[2]
    for address, file in names.items():
        cached = tmp_path / 'checkpoints' / file
        cached.write_bytes(marked.read_bytes())
        with pytest.raises(UsageError, match=f'{file} .from http.* is not read: it holds more than data'):
            CheckpointLoader.load_checkpoint(address, 'cpu')
        torch.save({'state_dict': {'backbone.a': torch.ones(2)}}, cached)
        loaded = CheckpointLoader.load_checkpoint(address, 'cpu')['state_dict']
        assert loaded['a' if 'mmcls' in address else 'backbone.a'].tolist() == [1, 1]


def test_elsewhere(tmp_path, monkeypatch):
    use_own_reader()
    for address in ('s3://bucket/a.pth', 'cluster:s3://bucket/a.pth', 'petrel://a.pth', 'pavi://a.pth'):
        with pytest.raises(UsageError, match=f'{address} is not read: mmengine would run'):
            CheckpointLoader.load_checkpoint(address)
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'open_mmlab.json').write_text('{"mine": "mine.pth"}')
    with pytest.raises(UsageError, match='openmmlab://mine is the file mine.pth; give its path'):
        CheckpointLoader.load_checkpoint('openmmlab://mine')


def test_files(marked, tmp_path):
    use_own_reader()
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match='more than data'):
        load_checkpoint(model, str(marked))
    with pytest.raises(UsageError, match='checkpoint not found'):
        load_checkpoint(model, str(tmp_path / 'none.pth'))
    # The config in a checkpoint of mmcv 1.x, which the Runner would run.
    torch.save({'state_dict': model.state_dict(), 'meta': {'config': 'import os', 'epoch': 1}}, tmp_path / 'a.pth')
    assert load_checkpoint(model, str(tmp_path / 'a.pth'))['meta'] == {'epoch': 1}


def test_trusted(tmp_path):
    torch.save({'object': Net()}, tmp_path / 'c.pth')
    use_own_reader()
    with pytest.raises(UsageError, match=r'namely \S+\.Net,'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'c.pth'))
    use_own_reader(trust=True)
    assert isinstance(CheckpointLoader.load_checkpoint(str(tmp_path / 'c.pth'))['object'], Net)
