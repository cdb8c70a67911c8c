"""The controller of ENAS's micro search (arXiv 1802.03268, Section 2.3): an LSTM that draws cells, with any norm."""

from dataclasses import dataclass

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...errors import UsageError
from .norm_lstm_cell import NormLSTMCell
from .search_space import INPUTS, OPERATIONS, Genotype, genotype_of

# Weights start uniform within this, as in the authors' code.
_BOUND = 0.1


@dataclass
class Draw:
    """Architectures that a controller has drawn.

    Attributes:
        choices: (M, 2, B, 4): cells, nodes, both sources and both operations.
        log_prob: Log-probability of each, (M,), in nats.
        entropy: Of the distributions on the way to each, summed, (M,), in nats, without a gradient.
    """

    choices: Tensor
    log_prob: Tensor
    entropy: Tensor

    def genotypes(self) -> list[Genotype]:
        """The architectures, M of them."""
        return [genotype_of(choices) for choices in self.choices.tolist()]


class Controller(BaseModule):
    """Draws a normal and a reduction cell, one choice a step of an LSTM.

    For every node two sources, by attention over the steps at which the earlier nodes were done, then two operations.
    The logits of sources are c tanh(l / T), those of operations c tanh(l / T) / ``operation_tanh_reduce``, c the
    ``tanh_constant``. The reduction cell is drawn with the state that the normal cell has left. As the authors' code,
    without its bias towards convolutions.

    Args:
        nodes: Nodes of a cell, B.
        hidden_size: Features of the LSTM, H.
        norm_cfg: Norm of the LSTM, as :class:`.NormLSTMCell` takes it.
        temperature: T.
        tanh_constant: c.
        operation_tanh_reduce: What c is divided by for the operations.

    Raises:
        UsageError: If a number is out of its range, or the norm does not fit.
    """

    def __init__(
        self,
        nodes: int = 5,
        hidden_size: int = 100,
        norm_cfg: dict | None = None,
        temperature: float = 1.0,
        tanh_constant: float = 1.1,
        operation_tanh_reduce: float = 2.5,
    ) -> None:
        super().__init__()
        for name, value in dict(
            nodes=nodes,
            hidden_size=hidden_size,
            temperature=temperature,
            tanh_constant=tanh_constant,
            operation_tanh_reduce=operation_tanh_reduce,
        ).items():
            if not value > 0:
                raise UsageError(f'{name} of the controller: expected a number above 0, got {value!r}')
        self.nodes = nodes
        self.temperature, self.tanh_constant = temperature, tanh_constant
        self.operation_tanh_reduce = operation_tanh_reduce
        self.lstm = NormLSTMCell(hidden_size, hidden_size, norm_cfg)
        self.start = nn.Parameter(torch.empty(1, hidden_size))
        self.operations = nn.Embedding(len(OPERATIONS), hidden_size)
        self.operation_logits = nn.Linear(hidden_size, len(OPERATIONS))
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.attention = nn.Linear(hidden_size, 1, bias=False)
        for module in (self.operations, self.operation_logits, self.key, self.query, self.attention):
            nn.init.uniform_(module.weight, -_BOUND, _BOUND)
        for weight in (self.lstm.weight_ih, self.lstm.weight_hh, self.start):
            nn.init.uniform_(weight, -_BOUND, _BOUND)
        for bias in (self.lstm.bias, self.operation_logits.bias):
            nn.init.zeros_(bias)

    def draw(self, count: int) -> Draw:
        """Draw architectures.

        Args:
            count: How many, M.
        """
        return self._run(count)

    def judge(self, choices: Tensor) -> Draw:
        """How probable given architectures are.

        Args:
            choices: (M, 2, B, 4).
        """
        return self._run(len(choices), choices)

    def most_likely(self) -> Genotype:
        """The architecture of the most probable choice at every step."""
        return self._run(1, greedy=True).genotypes()[0]

    def _run(self, count: int, given: Tensor | None = None, greedy: bool = False) -> Draw:
        run = _Run(count, given, greedy)
        state = None
        for cell in range(2):
            state = self._cell(cell, run, state)
        choices = torch.stack(run.choices, 1).view(count, 2, self.nodes, 4)
        return Draw(choices, torch.stack(run.log_probs, 1).sum(1), torch.stack(run.entropies, 1).sum(1))

    def _cell(self, cell: int, run: '_Run', state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        start = self.start.expand(run.count, -1)
        done, keys = [], []
        for _ in range(INPUTS):
            state = self.lstm(start, state)
            done.append(torch.zeros_like(state[0]))
            keys.append(self.key(state[0]))
        for node in range(self.nodes):
            x = start
            for side in range(2):
                state = self.lstm(x, state)
                found = torch.tanh(torch.stack(keys, 1) + self.query(state[0])[:, None])
                chosen = run.choose(self._bounded(self.attention(found)[..., 0]), (cell, node, side))
                x = torch.stack(done, 1)[torch.arange(run.count), chosen]
            for side in range(2):
                state = self.lstm(x, state)
                logits = self._bounded(self.operation_logits(state[0])) / self.operation_tanh_reduce
                x = self.operations(run.choose(logits, (cell, node, 2 + side)))
            state = self.lstm(x, state)
            done.append(state[0])
            keys.append(self.key(state[0]))
        assert state is not None
        return state

    def _bounded(self, logits: Tensor) -> Tensor:
        return self.tanh_constant * torch.tanh(logits / self.temperature)


class _Run:
    """Collects the choices of M architectures, drawn, given, or the most probable ones."""

    def __init__(self, count: int, given: Tensor | None, greedy: bool) -> None:
        self.count, self.given, self.greedy = count, given, greedy
        self.choices: list[Tensor] = []
        self.log_probs: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def choose(self, logits: Tensor, place: tuple[int, int, int]) -> Tensor:
        """One choice of each, (M,), by the logits, (M, number of choices)."""
        log_probs = logits.log_softmax(1)
        if self.given is not None:
            chosen = self.given[:, place[0], place[1], place[2]]
        elif self.greedy:
            chosen = log_probs.argmax(1)
        else:
            chosen = log_probs.detach().exp().multinomial(1)[:, 0]
        self.choices.append(chosen)
        self.log_probs.append(log_probs.gather(1, chosen[:, None])[:, 0])
        with torch.no_grad():
            self.entropies.append(-(log_probs.exp() * log_probs).sum(1))
        return chosen
