"""The LSTM cell with normalized gates against a plain formula, and what it refuses."""

import pytest
import torch
from helpers import assert_same
from torch import nn
from torch.nn import functional as F

from mmnorm.errors import UsageError
from mmnorm.models import NormLSTMCell

SN = dict(type='SN', normalizers=('LN', 'GN'), num_groups=4)
NORMS = {
    'none': None,
    'LN': dict(type='LN'),
    'GN': dict(type='GN', num_groups=4),
    'SN': SN,
    'SN of LN': dict(type='SN', normalizers=('LN',)),
}
# Batch, input, hidden, steps.
SHAPES = [(1, 1, 8, 1), (3, 5, 8, 4), (2, 7, 12, 9)]


def filled(cell):
    """The cell in float64, no parameter of it at a value by which a term could hide."""
    generator = torch.Generator().manual_seed(0)
    cell = cell.double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5 + 0.3)
    return cell


def plain_norm(x, norm, name):
    """LN, GN or SN of both, over (N, C), written out."""

    def moments(groups):
        parts = x.reshape(len(x), groups, -1)
        mean, var = parts.mean(2), parts.var(2, unbiased=False)
        return (m.repeat_interleave(x.shape[1] // groups, 1) for m in (mean, var))

    if name == 'none':
        return x
    pool = dict(LN=[1], GN=[4], SN=[1, 4]).get(name, [1])
    found = [tuple(moments(groups)) for groups in pool]
    k = len(pool)
    weights = [torch.ones(1, dtype=x.dtype)] * 2 if name in ('LN', 'GN') else [
        norm.mean_weight.softmax(0), norm.var_weight.softmax(0)
    ]  # fmt: skip
    mean, var = (sum(weights[i][j] * found[j][i] for j in range(k)) for i in range(2))
    return (x - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias


def plain_lstm(cell, name, inputs):
    h = c = torch.zeros(inputs.shape[1], cell.hidden_size, dtype=inputs.dtype)
    outputs = []
    for x in inputs:
        gates = plain_norm(F.linear(x, cell.weight_ih), cell.norm_x, name)
        gates = gates + plain_norm(F.linear(h, cell.weight_hh), cell.norm_h, name) + cell.bias
        size = cell.hidden_size
        i, f, o = (torch.sigmoid(gates[:, k * size : (k + 1) * size]) for k in (0, 1, 3))
        c = f * c + i * torch.tanh(gates[:, 2 * size : 3 * size])
        h = o * torch.tanh(plain_norm(c, cell.norm_c, name))
        outputs += [h, c]
    return torch.stack(outputs)


def run(cell, inputs):
    state, outputs = None, []
    for x in inputs:
        state = cell(x, state)
        outputs += state
    return torch.stack(outputs)


def with_gradients(function, cell, inputs):
    inputs = inputs.clone().requires_grad_()
    cell.zero_grad()
    y = function(inputs)
    generator = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=generator, dtype=y.dtype))
    return dict(output=y.detach(), input=inputs.grad, **{n: p.grad.clone() for n, p in cell.named_parameters()})


@pytest.mark.parametrize('name', NORMS)
@pytest.mark.parametrize('shape', SHAPES)
def test_against_the_plain_formula(name, shape):
    batch, size, hidden, steps = shape
    cell = filled(NormLSTMCell(size, hidden, NORMS[name]))
    inputs = torch.randn(steps, batch, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    actual = with_gradients(lambda x: run(cell, x), cell, inputs)
    expected = with_gradients(lambda x: plain_lstm(cell, name, x), cell, inputs)
    assert_same(actual, expected, tolerance=1e-9)
    # The first step has no h, and then neither W_h nor its norm's gamma matter.
    # The weights of a single normalizer are 1 whatever its logits.
    idle = ('mean_weight', 'var_weight') if name == 'SN of LN' else ()
    assert steps == 1 or all(g.abs().sum() > 0 for key, g in actual.items() if not key.endswith(idle))


def test_without_a_norm_it_is_pytorchs():
    cell, torchs = filled(NormLSTMCell(5, 6)), nn.LSTMCell(5, 6).double()
    torchs.load_state_dict(
        dict(weight_ih=cell.weight_ih, weight_hh=cell.weight_hh, bias_ih=cell.bias, bias_hh=torch.zeros(24))
    )
    x, state = torch.randn(3, 5, dtype=torch.float64), tuple(torch.randn(2, 3, 6, dtype=torch.float64))
    torch.testing.assert_close(cell(x, state), torchs(x, state))


def test_with_one_normalizer_sn_is_that():
    cells = [filled(NormLSTMCell(3, 8, dict(cfg))) for cfg in (NORMS['SN of LN'], NORMS['LN'])]
    cells[0].load_state_dict(cells[1].state_dict(), strict=False)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(run(cells[0], x), run(cells[1], x))


def test_other_samples_and_modes_change_nothing():
    """Nothing of a batch or of steps that went before: the same in eval mode, alone, and after other sequences."""
    cell = filled(NormLSTMCell(3, 8, SN))
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    expected = run(cell, x)
    run(cell, torch.randn(20, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(run(cell.eval(), x[:, 1:2]), expected[:, 1:2])
    assert not list(cell.buffers())


@pytest.mark.parametrize('name', ['LN', 'SN'])
def test_export(name):
    cell = NormLSTMCell(3, 8, NORMS[name])
    arguments = torch.randn(2, 3), (torch.randn(2, 8), torch.randn(2, 8))
    exported = torch.export.export(cell, arguments).module()
    torch.testing.assert_close(exported(*arguments), cell(*arguments))


def test_compile():
    cell = NormLSTMCell(3, 8, SN)
    compiled = torch.compile(cell, fullgraph=True, backend='aot_eager')
    x, state = torch.randn(2, 3), (torch.randn(2, 8), torch.randn(2, 8))
    torch.testing.assert_close(compiled(x, state), cell(x, state))
    compiled(x, state)[0].sum().backward()
    gradients = {name: p.grad.clone() for name, p in cell.named_parameters()}
    cell.zero_grad()
    cell(x, state)[0].sum().backward()
    torch.testing.assert_close(gradients, {name: p.grad for name, p in cell.named_parameters()})


@pytest.mark.parametrize(
    ('norm_cfg', 'message'),
    [
        (dict(type='BN'), 'BN would need statistics of its own for every step'),
        (dict(type='SN'), 'BN would need statistics of its own for every step'),
        (dict(type='mmnorm.SN1d', normalizers=('LN', 'BN'), track_running_stats=False), 'BN would need statistics'),
        (dict(type='BRN'), 'BN would need statistics'),
        (dict(type='SN', normalizers=('LN', 'IN')), 'IN has but one value in each channel'),
        (dict(type='IN1d'), 'IN has but one value in each channel'),
        (dict(type='GN', num_groups=7), 'must be divisible by num_groups'),
        (dict(type='GN', num_groups=8), 'Expected more than 1 value per channel'),
        (dict(type='SM'), 'does not fit an LSTM'),
        (dict(type='SN', normalizers=('LN', 'XN')), 'names unknown'),
        (dict(num_groups=7), 'expected None, or a dict'),
        ('SN', 'expected None, or a dict'),
    ],
)
def test_what_does_not_fit_is_refused(norm_cfg, message):
    with pytest.raises(UsageError, match=message) as error:
        NormLSTMCell(3, 8, norm_cfg)
    assert "SN with normalizers=('LN', 'GN')" in str(error.value)
