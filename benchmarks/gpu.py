"""Tests and times on a GPU in under ten minutes, what matters most first, and one report; gpu.sh starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import arguments
import torch
from environment import ROOT, cpu_name, describe, environment

# Seconds for everything: the report is written when they are over, whatever was reached.
LIMIT = 570
# Of ResNet-50: large maps, and many channels.
SHAPES = ['64x64x112x112', '64x256x56x56', '64x512x28x28', '64x2048x7x7']
OURS = ['SN', 'EN', 'ILM']


class Step(NamedTuple):
    """A part of the measurement.

    Attributes:
        title: Its heading in the report.
        words: What Python is to run.
        limit: Seconds that it may take.
        needs: Packages without which it is left out.
        tables: Name of the Markdown file that it leaves in its folder; without one, what it prints is reported.
    """

    title: str
    words: list[str]
    limit: int
    needs: tuple[str, ...] = ()
    tables: str | None = None


def steps(
    device: str = 'cuda',
    shapes: Sequence[str] = tuple(SHAPES),
    tests: Sequence[str] = ('tests/ops', 'tests/layers'),
    network: Sequence[str] = (),
    repeats: int = 10,
) -> list[Step]:
    """What is done, most important first.

    Args:
        device: 'cuda'; 'cpu' is for tests of this file.
        shapes: Inputs of the layers.
        tests: What pytest runs.
        network: More options of networks.py.
        repeats: Samples a time.
    """

    def layers(
        title: str, formats: list[str], dtypes: list[str], names: list[str], then: list[str], limit: int
    ) -> Step:
        words = ['benchmarks/layers.py', '--device', device, '--repeats', str(repeats), '--shapes', *shapes]
        words += ['--memory-format', *formats, '--dtype', *dtypes, '--layers', *names, '--then', *then]
        return Step(title, words, limit, tables='layers')

    # Most of a test's time is Triton's compiler, which takes one core.
    workers = ['-n', str(min(8, os.cpu_count() or 1))] if find_spec('xdist') and device == 'cuda' else []
    norms, compiled = ['GN', *OURS], [f'{name}-compiled' for name in OURS]
    fused = ['nothing', 'relu', 'sum-relu']
    half = 'float16' if device == 'cuda' else 'bfloat16'
    steps_of_network = ['benchmarks/networks.py', '--model', 'torchvision_resnet50', '--norms', *OURS, '--steps', '10']
    steps_of_network += ['--device', device, '--memory-format', 'channels_last', '--amp', half, *network]
    return [
        Step(
            'Tests of operators and layers',
            ['-m', 'pytest', '-p', 'no:cacheprovider', *workers, *tests],
            220,
            needs=('pytest', 'numpy'),
        ),
        layers('Layers, half precision, channels_last', ['channels_last'], [half], norms, fused, 120),
        Step('ResNet-50, training steps', steps_of_network, 150, needs=('torchvision',), tables='networks'),
        layers('Layers, float32, channels_last', ['channels_last'], ['float32'], norms, fused, 60),
        layers('Layers, contiguous', ['contiguous'], [half, 'float32'], norms, ['nothing', 'relu'], 90),
        layers('The formulas under torch.compile', ['channels_last'], [half], compiled, ['relu'], 120),
    ]


def run(step: Step, folder: Path, limit: float) -> str:
    """Take a step; returns its part of the report.

    Args:
        step: The step.
        folder: For what it saves.
        limit: Seconds that are left.
    """
    title = f'## {step.title}\n\n`python {" ".join(step.words)}`\n\n'
    missing = [name for name in step.needs if find_spec(name) is None]
    if missing:
        return f'{title}Left out: {" and ".join(missing)} is not installed.\n'
    if limit <= 0:
        return f'{title}Left out: no time was left.\n'
    limit = min(step.limit, limit)
    words = [*step.words, *(['--out', str(folder)] if step.tables else [])]
    start = time.monotonic()
    with (folder / 'output.txt').open('w+') as output:
        # In a session of its own, so that nothing it has started outlives the limit.
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = f'status {process.wait(limit)}'
        except subprocess.TimeoutExpired:
            status = f'stopped after its {limit:.0f} s'
            stop(process)
    took = f'{status}, {time.monotonic() - start:.0f} s\n\n'
    saved = folder / f'{step.tables}.md'
    if step.tables and saved.is_file():
        return title + took + saved.read_text()
    lines = (folder / 'output.txt').read_text(errors='replace').splitlines()
    return title + took + '```\n' + '\n'.join(lines[-40:]) + '\n```\n'


def stop(process: subprocess.Popen) -> None:
    """End a process and what it has started; pytest still says what has failed so far."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def report(all_steps: Sequence[Step], out: Path, device: torch.device) -> Path:
    """Take the steps, one after another; the report is complete up to the last one at any time."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / 'gpu.md'
    facts = {**environment(device), 'cpu': cpu_name()}
    parts = [f'# {facts["device"]}\n\n{describe(facts)}\n']
    end = time.monotonic() + LIMIT
    for i, step in enumerate(all_steps):
        print(f'{step.title} ...', file=sys.stderr, flush=True)
        folder = out / f'gpu-{i + 1}'
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        parts.append(run(step, folder, end - time.monotonic()))
        file.write_text('\n'.join(parts))
    return file


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments.Parser(prog='gpu.sh', description=__doc__)
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'work_dirs/benchmarks',
        help='folder of gpu.md (default: work_dirs/benchmarks)',
    )
    options = parser.parse_args(words)
    if not torch.cuda.is_available():
        print('gpu.sh: PyTorch sees no CUDA GPU here', file=sys.stderr)
        return 2
    file = report(steps(), options.out.resolve(), torch.device('cuda'))
    print(file.read_text())
    print(f'saved {file}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
