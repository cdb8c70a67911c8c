"""Each part of a model gets an optimizer of its own, completed by what is said of all."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

import mmnorm
from mmnorm.errors import UsageError

ADAM = dict(type='Adam', lr=0.1, betas=(0.5, 0.999), weight_decay=0.01)


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Conv2d(3, 32, 1), mmnorm.SwitchableNorm2d(32))
        self.discriminator = nn.Linear(4, 1)
        self.tied = nn.ModuleList([self.discriminator])


def build(parts, **common):
    cfg = dict(constructor='PartsOptimWrapperConstructor', parts=parts, **common)
    return build_optim_wrapper(TwoParts(), cfg)


def group(wrapper):
    return wrapper.optimizer.param_groups[0]


def test_parts_are_completed_by_the_common_options():
    wrappers = build(
        dict(generator=None, discriminator=dict(optimizer=dict(lr=0.2), accumulative_counts=2)),
        optimizer=ADAM, clip_grad=dict(max_norm=1.0),
    )  # fmt: skip
    assert isinstance(wrappers, OptimWrapperDict)
    assert list(wrappers.keys()) == ['generator', 'discriminator']
    for name, rate, count in (('generator', 0.1, 1), ('discriminator', 0.2, 2)):
        assert isinstance(wrappers[name].optimizer, torch.optim.Adam)
        found = group(wrappers[name])
        assert (found['lr'], found['betas'], found['weight_decay']) == (rate, (0.5, 0.999), 0.01)
        assert wrappers[name]._accumulative_counts == count
        assert wrappers[name].clip_grad_kwargs == dict(max_norm=1.0)


def test_another_type_takes_nothing_over():
    sgd = dict(type='SGD', lr=1.0, momentum=0.9)
    wrappers = build(dict(generator=dict(optimizer=sgd), discriminator=dict()), optimizer=ADAM)
    found = group(wrappers['generator'])
    assert isinstance(wrappers['generator'].optimizer, torch.optim.SGD)
    assert (found['lr'], found['momentum'], found['weight_decay']) == (1.0, 0.9, 0)


def test_no_common_optimizer_is_needed():
    wrappers = build(dict(generator=dict(optimizer=ADAM), discriminator=dict(optimizer=dict(type='SGD', lr=1.0))))
    assert isinstance(wrappers['discriminator'].optimizer, torch.optim.SGD)


def test_options_by_parameter_reach_the_learned_norms():
    own = dict(norm_decay_mult=0, ratio_lr_mult=0.5)
    wrappers = build(
        dict(generator=dict(paramwise_cfg=own), discriminator=dict()),
        optimizer=ADAM, paramwise_cfg=dict(bias_lr_mult=2.0),
    )  # fmt: skip
    found = [(g['lr'], g['weight_decay']) for g in wrappers['generator'].optimizer.param_groups]
    # The convolution's weight and bias; gamma, beta and the two logits of SN.
    assert found == [(0.1, 0.01)] * 2 + [(0.1, 0)] * 2 + [(0.05, 0.01)] * 2
    assert [g['lr'] for g in wrappers['discriminator'].optimizer.param_groups] == [0.1, 0.2]


def test_the_config_stays_as_it_is_and_the_state_returns():
    cfg = dict(constructor='PartsOptimWrapperConstructor', optimizer=ADAM, parts=dict(generator={}, discriminator={}))
    before, model = copy.deepcopy(cfg), TwoParts()
    wrappers = build_optim_wrapper(model, cfg)
    assert cfg == before
    wrappers['discriminator'].update_params(model.discriminator(torch.ones(1, 4)).sum())
    again = build_optim_wrapper(model, cfg)
    again.load_state_dict(wrappers.state_dict())
    assert len(again['discriminator'].optimizer.state) == 2
    assert not again['generator'].optimizer.state


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (None, r'parts: expected options .*got None'),
        ({}, r'parts: expected options .*got \{\}'),
        (dict(generator=0.1), r'parts\.generator: expected a dict of options, got 0\.1'),
        (dict(generator=dict(optimizer=None)), r'parts\.generator has no optimizer: give it one'),
        (dict(critic={}), r"TwoParts has no part 'critic'; its parts are generator, discriminator, tied"),
        ({'discriminator': {}, 'tied': {}}, r'discriminator and tied have weights in common'),
    ],
)
def test_wrong_parts(parts, message):
    with pytest.raises(UsageError, match=message):
        build(parts, optimizer=ADAM)


def test_no_optimizer_at_all():
    with pytest.raises(UsageError, match='generator has no optimizer'):
        build(dict(generator=dict()))
