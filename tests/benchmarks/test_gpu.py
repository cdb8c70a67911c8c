"""The command for machines with a GPU: what it says without one, and its pieces at tiny sizes on the CPU."""

import subprocess
import sys

import gpu
import pytest
import torch
from kernels import Resources

TINY = dict(
    device='cpu',
    shapes=['2x32x4x4'],
    tests=['tests/ops/test_fused.py', '-k', 'test_copies_and_says_so and auto'],
    network=['--size', '32', '--batch', '2', '--steps', '1'],
    repeats=1,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so():
    command = [gpu.ROOT / 'benchmarks/gpu.sh']
    environment = {**gpu.os.environ, 'PYTHON': sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (2, '', 'gpu.sh: PyTorch sees no CUDA GPU here\n')


def test_pieces_on_the_cpu(tmp_path):
    tests, layers, *_ = gpu.steps(**TINY)
    file = gpu.report([tests, layers], tmp_path, torch.device('cpu'))
    text = file.read_text()
    assert text.startswith('# ')
    assert '1 passed' in text
    assert text.count('status 0') == 2
    for group in ('bfloat16: time', 'bfloat16, with relu: time', 'bfloat16, with sum-relu: time'):
        assert f'channels_last, {group} relative to BN' in text


def test_what_is_missing_or_too_slow_is_said(tmp_path):
    step = gpu.Step('Sleep', ['-c', 'import time; print("began", flush=True); time.sleep(60)'], 3)
    text = gpu.run(step, tmp_path, 100)
    assert 'stopped after its 3 s' in text
    assert 'began' in text
    assert 'no time was left' in gpu.run(step, tmp_path, -1)
    assert 'no_such_package is not installed' in gpu.run(step._replace(needs=('no_such_package',)), tmp_path, 1)


def test_the_commands_are_understood():
    import layers
    import networks

    for step in gpu.steps(**TINY):
        script, words = step.words[0], step.words[1:]
        parse = {'benchmarks/layers.py': layers, 'benchmarks/networks.py': networks}.get(script)
        assert parse is None or parse.parse_arguments(words).device.type == 'cpu'
    assert sum(step.limit for step in gpu.steps()[:3]) <= gpu.LIMIT


def test_occupancy():
    """As NVIDIA's occupancy calculator has it: by registers, by shared memory, by warps."""
    assert Resources(32, 0, 0, 4).occupancy(80) == 1
    assert Resources(128, 0, 0, 4).occupancy(80) == 0.25
    assert Resources(255, 0, 0, 4).occupancy(90) == 0.125
    assert Resources(32, 0, 48 << 10, 4).occupancy(80) == 3 * 4 / 64
    assert Resources(32, 0, 48 << 10, 4).occupancy(90) == 4 * 4 / 64


def test_a_step_of_torchvisions_resnet50():
    pytest.importorskip('torchvision')
    import networks

    words = ['--model', 'torchvision_resnet50', '--size', '32', '--batch', '2', '--device', 'cpu', '--amp', 'bfloat16']
    options = networks.parse_arguments([*words, '--memory-format', 'channels_last'])
    networks.import_codebase('torchvision_resnet50')
    for norm in ('BN', 'EN', 'GN'):
        networks.make_step('torchvision_resnet50', norm, options)()
