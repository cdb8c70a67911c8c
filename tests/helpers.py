"""Helpers that several test files share."""

import os
import sys
import traceback

import pytest
import torch

import mmnorm
import mmnorm_command
from mmnorm.ops import backend
from mmnorm.ops.passes import native, portable

LAYERS = {
    (name, dims): getattr(mmnorm, f'{name}{dims}d')
    for name in ('SwitchableNorm', 'SparseSwitchableNorm', 'ExemplarNorm', 'InstanceMetaNorm')
    for dims in (1, 2, 3)
}


def _autocasts_to_float16():
    try:
        with torch.autocast('cpu', dtype=torch.float16):
            return torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype == torch.float16
    except RuntimeError:
        return False


# Types of autocast on the CPU.
AUTOCAST_TYPES = [
    torch.bfloat16,
    pytest.param(
        torch.float16,
        marks=pytest.mark.skipif(not _autocasts_to_float16(), reason='here autocast on the CPU knows no float16'),
    ),
]


def _loops(name, *values):
    """A parameter of a test that needs those loops."""
    there = backend.has_native() if name == 'native' else backend.has_portable()
    missing = 'mmnorm._C' if name == 'native' else 'mmnorm/_loops.so'
    marks = pytest.mark.skipif(not there, reason=f'{missing} is not compiled')
    return pytest.param(*(values or (name,)), marks=marks, id=name)


# The loops for the CPU, as modules of passes, and as names of backends; and all that may take the CPU's tensors.
LOOPS = [_loops('native', native), _loops('portable', portable)]
LOOPS_BACKENDS = [_loops('native'), _loops('portable')]
CPU_BACKENDS = ['composed', *LOOPS_BACKENDS]


def randomize(layer):
    """Give every parameter and running statistic a value without symmetry, so that no term can hide at 0 or 1."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.3)
        if hasattr(layer, 'set_sparsity'):
            layer.set_sparsity(0.6)
        if getattr(layer, 'running_mean', None) is not None:
            layer.running_mean.copy_(torch.randn_like(layer.running_mean))
            layer.running_var.copy_(torch.rand_like(layer.running_var) + 0.5)
    return layer


def outputs_and_gradients(function, layer, x):
    """Output and the gradients of the input and of every parameter, for one fixed random output gradient."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    y = function(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype))
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return dict(output=y.detach(), input=x.grad, **gradients)


def assert_same(actual, expected, tolerance=1e-10, floor=1e-2):
    """Largest difference at most ``tolerance`` of the largest value; values below ``floor`` count as ``floor``."""
    assert actual.keys() == expected.keys()
    for name in actual:
        difference = (actual[name] - expected[name]).abs().max().item() if actual[name].numel() else 0
        scale = max(expected[name].abs().max().item(), floor) if expected[name].numel() else 1
        assert difference <= tolerance * scale, f'{name}: differs by {difference:.2e} at scale {scale:.2e}'


def forget_instances(cls):
    """As in a new process: without the loggers and visualizers of what has run in this one."""
    for subclass in cls.__subclasses__():
        subclass._instance_dict.clear()
        forget_instances(subclass)


def in_fork(log, command, *arguments, expected=0):
    """Run a command of mmnorm in a fork of this process, which has imported everything; its output goes to ``log``.

    It has to end with the status that is expected.
    """
    from mmengine.utils import ManagerMixin

    process = os.fork()
    if process == 0:
        status = 1
        try:
            with log.open('w') as output:
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
                sys.stdout = sys.stderr = output
                torch.set_num_threads(1)
                forget_instances(ManagerMixin)
                sys.argv = ['mmnorm', command, *map(str, arguments)]
                try:
                    mmnorm_command.main()
                    status = 0
                except SystemExit as stopped:
                    status = stopped.code or 0
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status == expected, log.read_text()[-4000:]
