"""An LSTM cell with normalized gates: "Layer Normalization" (arXiv 1607.06450), with any norm that needs no batch."""

import math

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ...errors import UsageError
from ...ops.compat import BatchNormBase, InstanceNormBase
from ...registry import NAMES, NORMS, SCOPE

_EXPECTED = (
    "a norm of each sample's features: LN, GN with num_groups that divide hidden_size, "
    "or SN with normalizers=('LN', 'GN')"
)


class NormLSTMCell(nn.Module):
    r"""A step of an LSTM whose gates are normalized, each step by itself, so that sequences may have any length.

    .. math::
        (i, f, g, o) &= \mathrm{norm}_x(W_x x_t) + \mathrm{norm}_h(W_h h_{t-1}) + b \\
        c_t &= \sigma(f) \, c_{t-1} + \sigma(i) \tanh(g) \\
        h_t &= \sigma(o) \tanh(\mathrm{norm}_c(c_t))

    as in Ba et al. (1607.06450, Eqn. 20 to 22). The SN paper (1806.10779, Section 4.4) normalizes the LSTM of ENAS by
    LN, GN or SN of both and does not say where; it leaves out IN, which it takes for LN there, and BN, which has no
    statistics that would hold for every step. The norms of the gates see all four at once: with ``num_groups=4`` GN
    takes each gate for itself.

    Args:
        input_size: Features of the input, D.
        hidden_size: Features of the state, H.
        norm_cfg: Config of the norm; None leaves the plain LSTM of ``nn.LSTMCell``.

    Attributes:
        weight_ih: W_x, (4H, D), rows in the order i, f, g, o of ``nn.LSTMCell``.
        weight_hh: W_h, (4H, H).
        bias: b, (4H,).

    Raises:
        UsageError: If the norm takes no (N, C) or depends on other samples or on running statistics.
    """

    def __init__(self, input_size: int, hidden_size: int, norm_cfg: dict | None = None) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.norm_x = build_step_norm(norm_cfg, 4 * hidden_size)
        self.norm_h = build_step_norm(norm_cfg, 4 * hidden_size)
        self.norm_c = build_step_norm(norm_cfg, hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights and bias uniform within 1 / sqrt(H), as ``nn.LSTMCell``; the norms stay as they are."""
        bound = 1 / math.sqrt(self.hidden_size)
        for weight in (self.weight_ih, self.weight_hh, self.bias):
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """A step.

        Args:
            x: (N, D).
            state: h and c of the step before, (N, H) each; None is zeros.

        Returns:
            h and c, (N, H) each.
        """
        if state is None:
            zeros = x.new_zeros(len(x), self.hidden_size)
            state = zeros, zeros
        h, c = state
        gates = self.norm_x(x @ self.weight_ih.t()) + self.norm_h(h @ self.weight_hh.t()) + self.bias
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.norm_c(c).tanh(), c

    def extra_repr(self) -> str:
        return f'{self.input_size}, {self.hidden_size}'


def build_step_norm(norm_cfg: dict | None, features: int) -> nn.Module:
    """A norm of (N, features) that treats every sample, and every step, by itself.

    Args:
        norm_cfg: Its config; of the norms here the name without a rank means the 1d class. None is the identity.
        features: Number of features C.

    Raises:
        UsageError: If it can't be had, or is none.
    """
    if norm_cfg is None:
        return nn.Identity()
    if not isinstance(norm_cfg, dict) or 'type' not in norm_cfg:
        raise UsageError(f'norm_cfg of an LSTM: expected None, or a dict of {_EXPECTED}; got {norm_cfg!r}')
    given = dict(norm_cfg)
    kind = str(given['type']).removeprefix(f'{SCOPE}.')
    if kind in NORMS:
        given['type'] = NAMES[f'{kind}1d']
    try:
        _, norm = build_norm_layer(dict(given), features)
        # One that has values to try, also where the model is built without any, on the meta device.
        with torch.device('cpu'):
            _, trial = build_norm_layer(dict(given), features)
            reason = _needs_more(trial) or _looks_around(trial, features)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).strip('\'"')
    if reason:
        raise UsageError(
            f'norm_cfg={norm_cfg!r} does not fit an LSTM, here its {features} features: {reason}. Expected {_EXPECTED}'
        )
    return norm


def _needs_more(norm: nn.Module) -> str | None:
    """Why a norm can't work on single numbers, sample by sample and step by step, if its class tells."""
    pool = getattr(norm, 'normalizers', ())
    if 'BN' in pool or isinstance(norm, BatchNormBase) or next(norm.buffers(), None) is not None:
        return 'BN would need statistics of its own for every step, and sequences of any length have no last step'
    if 'IN' in pool or isinstance(norm, InstanceNormBase):
        return 'IN has but one value in each channel of (N, C), which leaves nothing of it'
    return None


@torch.no_grad()
def _looks_around(norm: nn.Module, features: int) -> str | None:
    """Whether a norm makes something else of a sample in other company; raises what it raises."""
    x = torch.arange(2.0 * features).sin().view(2, features)
    if torch.allclose(norm(x)[:1], norm(x[:1]), atol=1e-5):
        return None
    return 'its result for a sample depends on the other samples of the batch'
