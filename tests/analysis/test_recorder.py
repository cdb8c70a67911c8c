"""The recorder: what it keeps is what the layers do, nothing of the model is touched, over processes too."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import randomize
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import mmnorm
from mmnorm.analysis import load_record, record, save_record
from mmnorm.errors import UsageError


def network(layer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), layer(8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 16, 1), layer(16))
    for module in model:
        if hasattr(module, 'num_features'):
            randomize(module)
    return model


def loader(count=10, batch_size=4, labels=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 9, 8, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator) * 4
    tensors = (x, torch.arange(count) % 3) if labels else (x,)
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size)


def inputs_of(model, index, data):
    x = torch.cat([batch[0] for batch in data])
    with torch.no_grad():
        return copy.deepcopy(model).eval()[:index](x)


def test_exemplar_ratios_of_every_sample():
    model, data = network(mmnorm.ExemplarNorm2d), loader()
    recorded = record(model, data, progress=False)
    assert [layer.name for layer in recorded.layers] == ['1', '5']
    for layer in recorded.layers:
        module = copy.deepcopy(model[int(layer.name)]).eval()
        expected = module.importance_ratios(inputs_of(model, int(layer.name), data))
        np.testing.assert_allclose(layer.values['ratios'], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.values['mean'], expected.mean(0), rtol=1e-4)
        np.testing.assert_allclose(layer.values['std'], expected.std(0, correction=0), rtol=1e-3, atol=1e-5)
        assert expected.std(0).max() > 1e-3, 'samples differ'
    assert [layer.conv for layer in recorded.layers] == ['3x3', '1x1']
    assert [layer.size for layer in recorded.layers] == [(7, 6), (7, 6)]
    assert recorded.labels.tolist() == [i % 3 for i in range(10)]
    assert recorded.images.shape == (10, 96, 96, 3)
    assert recorded.image_index.tolist() == list(range(10))


def test_sequences():
    """A list of one tensor of rank 3 is a batch of sequences, no image."""
    model = randomize(mmnorm.ExemplarNorm1d(3))
    x = torch.randn(4, 3, 7)
    (layer,) = record(nn.Sequential(model), [[x]], progress=False).layers
    np.testing.assert_allclose(layer.values['ratios'], model.eval().importance_ratios(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ('layer', 'norm'), [(mmnorm.SwitchableNorm2d, 'SN'), (mmnorm.SparseSwitchableNorm2d, 'SSN')], ids=['SN', 'SSN']
)
def test_switchable_weights(layer, norm, tmp_path):
    model = network(layer)
    save_record(record(model, loader(labels=False), progress=False), tmp_path / 'record.npz')
    recorded = load_record(tmp_path / 'record.npz')
    assert len(recorded.that_learn('weights')) == 2
    for layer in recorded.layers:
        assert (layer.norm, layer.learns) == (norm, 'weights')
        np.testing.assert_allclose(layer.values['weights'], model[int(layer.name)].importance_weights())


def test_predictions_of_instance_meta():
    model, data = network(mmnorm.InstanceMetaNorm2d), loader()
    recorded = record(model, data, progress=False)
    for layer in recorded.layers:
        module = model[int(layer.name)]
        predicted = module.predicted_affine(inputs_of(model, int(layer.name), data))
        for name, values in zip(('omega', 'beta'), predicted, strict=True):
            np.testing.assert_allclose(layer.values[f'{name}_mean'], values.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(layer.values[f'{name}_std'], values.std(0, correction=0), rtol=1e-3, atol=1e-5)
            counts, edges = layer.values[f'{name}_counts'], layer.values[f'{name}_edges']
            assert counts.sum() == values.numel()
            # Each value is in its bin: as many are below an edge as there should be.
            for i in (100, 256, 400):
                assert abs(counts[:i].sum() - (values < edges[i]).sum()) <= 1
        np.testing.assert_array_equal(layer.values['base_omega'], module.weight.detach())


@pytest.mark.parametrize('fault', [False, True])
def test_nothing_is_touched(fault):
    model = network(mmnorm.ExemplarNorm2d).train()
    model[5].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    generator = torch.random.get_rng_state()

    def forward(model, batch):
        model(batch[0] + torch.rand(()))
        if fault:
            raise OSError('disk')

    if fault:
        with pytest.raises(OSError, match='disk'):
            record(model, loader(), forward=forward, progress=False)
    else:
        record(model, loader(), forward=forward)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_convolutions_and_order_in_a_resnet():
    model = resnet18(norm_layer=mmnorm.SwitchableNorm2d)
    recorded = record(model, [torch.randn(1, 3, 32, 32)], progress=False)
    convs = {layer.name: layer.conv for layer in recorded.layers}
    assert len(convs) == 20
    assert next(iter(convs)) == 'bn1'
    assert convs.pop('bn1') == '7x7'
    assert {name for name, conv in convs.items() if conv == 'shortcut'} == {
        f'layer{i}.0.downsample.1' for i in (2, 3, 4)
    }
    assert sum(conv == '3x3' for conv in convs.values()) == 16
    assert recorded.layers[-1].size == (1, 1)


class Regions(nn.Module):
    """A backbone, a head that is called for every level, and one for regions."""

    def __init__(self):
        super().__init__()
        self.backbone = mmnorm.ExemplarNorm2d(3)
        self.levels = mmnorm.ExemplarNorm2d(3)
        self.roi_head = mmnorm.ExemplarNorm2d(3)
        self.auxiliary_head = mmnorm.ExemplarNorm2d(3)
        randomize(self.levels)
        randomize(self.roi_head)

    def forward(self, x):
        x = self.backbone(x)
        self.levels(x), self.levels(x[:, :, ::2])
        self.roi_head(x[:0])
        self.roi_head(x.repeat(3, 1, 1, 1) + torch.arange(3 * len(x)).reshape(-1, 1, 1, 1))


def test_regions_levels_and_layers_without_data(caplog):
    model, data = Regions(), loader(6, 2)
    recorded = record(model, data, progress=False)
    by_name = {layer.name: layer.values for layer in recorded.layers}
    assert recorded.unreached == ('auxiliary_head',)
    assert 'no data reached auxiliary_head' in caplog.text
    assert 'ratios' not in by_name['roi_head']
    assert np.isfinite(by_name['roi_head']['mean']).all()
    x = copy.deepcopy(model.backbone).eval()(torch.cat([batch[0] for batch in data]))
    module = copy.deepcopy(model.levels).eval()
    expected = (module.importance_ratios(x) + module.importance_ratios(x[:, :, ::2])) / 2
    np.testing.assert_allclose(by_name['levels']['ratios'], expected.detach(), rtol=1e-5, atol=1e-6)
    assert [layer.name for layer in recorded.per_sample()] == ['backbone', 'levels']


class MMModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = mmnorm.ExemplarNorm2d(3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'predict'
        self.norm(torch.stack(list(inputs)).float())
        return data_samples


def test_batches_of_mmengine():
    def batch(*labels):
        samples = [BaseDataElement(gt_label=torch.tensor([label])) for label in labels]
        image = torch.zeros(3, 4, 200, dtype=torch.uint8)
        image[0] = 255
        return dict(inputs=[image for _ in labels], data_samples=samples)

    recorded = record(MMModel(), [batch(3, 1), batch(2)], progress=False)
    assert recorded.labels.tolist() == [3, 1, 2]
    assert recorded.images[0, 48, 48].tolist() == [0, 0, 255], 'BGR became RGB'
    assert recorded.images[0, 0, 0].tolist() == [255, 255, 255], 'white around it'


def test_bounded_by_max_samples():
    recorded = record(network(mmnorm.ExemplarNorm2d), loader(20), max_samples=7, num_images=3, progress=False)
    assert recorded.samples == 8
    assert len(recorded.layers[0].values['ratios']) == 8
    assert len(recorded.images) == 3
    assert (np.diff(recorded.image_index) > 0).all()


def test_errors():
    with pytest.raises(
        UsageError, match='ResNet has no EN, ILM, SN, SSN, IEBN, RBN or SelfNorm layer.*its norms are BatchNorm2d'
    ):
        record(resnet18(), loader())
    with pytest.raises(UsageError, match=r'the loader \(list\) is empty'):
        record(network(mmnorm.ExemplarNorm2d), [])
    with pytest.raises(UsageError, match='no data reached any of the 2 learned norms'):
        record(network(mmnorm.ExemplarNorm2d), loader(), forward=lambda model, batch: None, progress=False)
    with pytest.raises(UsageError, match='max_samples must be a positive integer or None, got 0'):
        record(network(mmnorm.ExemplarNorm2d), loader(), max_samples=0)


def worker(rank, store, model, loaders, results):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    torch.set_num_threads(1)
    recorded = record(nn.parallel.DistributedDataParallel(model), loaders[rank], progress=False)
    if recorded is not None:
        save_record(recorded, results)
    dist.destroy_process_group()


@pytest.mark.parametrize('layer', [mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d])
def test_two_processes(layer, tmp_path):
    """Samples dealt out in turn, as samplers do, the first one repeated at the end; none is counted twice."""
    model, data = network(layer), loader(7, 3)
    dataset = data.dataset
    shares = [0, 2, 4, 6], [1, 3, 5, 0]
    loaders = [DataLoader(dataset, batch_size=2, sampler=share) for share in shares]
    out = tmp_path / 'record.npz'
    mp.start_processes(worker, (tmp_path / 'store', model, loaders, out), nprocs=2, start_method='fork')
    gathered, alone = load_record(out), record(model, data, progress=False)
    assert gathered.samples == 7
    assert gathered.labels.tolist() == alone.labels.tolist()
    for ours, theirs in zip(gathered.layers, alone.layers, strict=True):
        assert ours.name == theirs.name
        if 'ratios' in theirs.values:
            for key, value in theirs.values.items():
                np.testing.assert_allclose(ours.values[key], value, rtol=1e-4, atol=1e-5)
        else:
            assert ours.values['omega_counts'].sum() == theirs.values['omega_counts'].sum() * 8 / 7
    np.testing.assert_array_equal(gathered.images, alone.images)
