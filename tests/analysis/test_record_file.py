"""The file of a record: everything comes back; what is no record is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import mmnorm
from mmnorm.analysis import load_record, record, save_record
from mmnorm.errors import UsageError


def recorded():
    layers = (
        mmnorm.ExemplarNorm2d(4),
        mmnorm.SwitchableNorm2d(4, normalizers=('LN', 'GN')),
        mmnorm.InstanceMetaNorm2d(4),
    )
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers)
    return record(model, [(torch.randn(5, 3, 4, 6), torch.arange(5))], title='epoch 3', progress=False)


def test_round_trip(tmp_path):
    before = recorded()
    save_record(before, tmp_path / 'record.npz')
    after = load_record(tmp_path / 'record.npz')
    for ours, theirs in zip(after.layers, before.layers, strict=True):
        for field in ('name', 'norm', 'conv', 'size', 'channels', 'normalizers'):
            assert getattr(ours, field) == getattr(theirs, field), field
        assert ours.values.keys() == theirs.values.keys()
        assert all(np.array_equal(ours.values[key], theirs.values[key]) for key in theirs.values)
    for field in ('samples', 'classes', 'unreached', 'title'):
        assert getattr(after, field) == getattr(before, field), field
    for field in ('labels', 'images', 'image_index'):
        assert np.array_equal(getattr(after, field), getattr(before, field)), field
    assert [path.name for path in tmp_path.iterdir()] == ['record.npz'], 'nothing else is left'


def test_no_code_is_run_from_a_file(tmp_path):
    save_record(recorded(), tmp_path / 'record.npz')
    with np.load(tmp_path / 'record.npz', allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file)


def test_what_is_no_record(tmp_path):
    with pytest.raises(UsageError, match='record not found'):
        load_record(tmp_path / 'none.npz')
    (tmp_path / 'text.npz').write_text('text')
    with pytest.raises(UsageError, match='cannot be read as a record'):
        load_record(tmp_path / 'text.npz')
    np.savez(tmp_path / 'other.npz', x=np.zeros(3))
    with pytest.raises(UsageError, match='is not a record'):
        load_record(tmp_path / 'other.npz')
    save_record(recorded(), tmp_path / 'later.npz')
    with np.load(tmp_path / 'later.npz') as file:
        np.savez(tmp_path / 'later.npz', **{**file, 'version': np.array(99)})
    with pytest.raises(UsageError, match='format version 99'):
        load_record(tmp_path / 'later.npz')
    with pytest.raises(UsageError, match='a record is an .npz file, got'):
        save_record(recorded(), tmp_path / 'record.txt')


def test_names_and_kinds_that_are_not_there():
    record = recorded()
    with pytest.raises(UsageError, match="no layer is called '11'.*The 1 layers are: 1"):
        record.per_sample(['11'])
    record.layers = record.layers[1:]
    with pytest.raises(UsageError, match='has no EN layer.*it has ILM, SN.*Figures for ILM: affine'):
        record.that_learn('ratios')
