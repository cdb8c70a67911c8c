"""A network tested with each kind of BN statistics: SN paper (arXiv 1806.10779, first version), Section 2.1, Fig. 8."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.runner import Runner, load_checkpoint

from ..engine.batch_average import VARIANCES, unwrap
from ..engine.batch_average_hook import BatchAverageHook
from ..errors import UsageError


@dataclass(frozen=True)
class Tested:
    """A test.

    Attributes:
        checkpoint: What was tested.
        statistics: Which BN statistics it had.
        metrics: What came of it, as the codebase reports it.
    """

    checkpoint: str
    statistics: str
    metrics: dict[str, float]


def compare_statistics(
    runner: Runner,
    checkpoints: Sequence[str],
    samples: Sequence[int | None],
    variances: Sequence[str] = VARIANCES,
) -> list[Tested]:
    """Test each checkpoint with the statistics that it has, and with batch averages.

    Args:
        runner: With training and test data, and nothing loaded.
        checkpoints: Of a run without BatchAverageHook, whose statistics are the moving average of training.
        samples: Numbers of training images that a batch average is over; None is all of them.
        variances: Which variances, as of :func:`mmnorm.update_bn_stats`.

    Returns:
        For each checkpoint a test with its own statistics, and one with each number and each variance: that of all
        values, and the average of the batches'.

    Raises:
        UsageError: If the network has no BN statistics to take anew.
    """
    loader = runner.train_dataloader
    each = loader.batch_sampler.batch_size if loader.batch_size is None else loader.batch_size
    runner.call_hook('before_run')
    tests = []
    for checkpoint in checkpoints:
        load_checkpoint(runner.model, checkpoint, map_location='cpu')
        own = {name: buffer.clone() for name, buffer in unwrap(runner.model).named_buffers()}
        if not any(name.endswith('running_mean') for name in own):
            raise UsageError(
                f'{checkpoint} has no running statistics: its network has no BN, and no norm with BN in it'
            )
        tests.append(Tested(checkpoint, 'as in the checkpoint', _test(runner)))
        for number in samples:
            count = len(loader.dataset) if number is None else number
            batches = math.ceil(count / (each * runner.world_size))
            for variance in variances:
                BatchAverageHook(batches, in_test=True, variance=variance).before_test(runner)
                name = f'batch average over {count} images, variance: {variance}'
                tests.append(Tested(checkpoint, name, _test(runner)))
                _restore(runner, own)
    return tests


def markdown(tests: Sequence[Tested]) -> str:
    """A table: checkpoint, statistics, a column for each metric."""
    names = [name for name in tests[0].metrics if not name.endswith('time')]
    lines = [['checkpoint', 'BN statistics', *names], ['---', '---', *['---:'] * len(names)]]
    lines += [[t.checkpoint, t.statistics, *(f'{t.metrics[name]:.2f}' for name in names)] for t in tests]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n'


def _test(runner: Runner) -> dict[str, float]:
    return {name: float(value) for name, value in runner.test_loop.run().items()}


@torch.no_grad()
def _restore(runner: Runner, buffers: dict[str, torch.Tensor]) -> None:
    for name, buffer in unwrap(runner.model).named_buffers():
        buffer.copy_(buffers[name])
