"""Commands of mmnorm in processes of their own: one that another command starts, or as many as there are GPUs."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import UsageError

# What the package was imported from. Where it is a checkout, other processes may not find it by themselves.
_FOLDER = Path(__file__).resolve().parents[2]
# Characters at the end of a log that are shown of what failed.
_TAIL = 3000


def command_line(words: Sequence[str]) -> list[str]:
    """What starts a command of mmnorm ('mmnorm', 'train', ...) with this Python."""
    program, *rest = words
    assert program == 'mmnorm', program
    return [sys.executable, '-m', 'mmnorm', *rest]


def environment() -> dict[str, str]:
    """The environment, in which this mmnorm is found."""
    found = dict(os.environ)
    # Logs are read as UTF-8; on Windows a process that writes to a file would take another encoding.
    found.setdefault('PYTHONIOENCODING', 'utf-8')
    if (_FOLDER / 'setup.py').is_file():
        found['PYTHONPATH'] = os.pathsep.join(filter(None, [str(_FOLDER), found.get('PYTHONPATH')]))
    return found


def execute(words: Sequence[str], log: Path, append: bool = False) -> int:
    """Run a command, its output going to a file.

    Args:
        words: 'mmnorm', the command, its arguments.
        log: The file.
        append: Whether to keep what is in the file.

    Returns:
        The exit status.
    """
    with log.open('a' if append else 'w', encoding='utf-8') as output:
        done = subprocess.run(
            command_line(words), stdout=output, stderr=subprocess.STDOUT, env=environment(), check=False
        )
    return done.returncode


def run_step(log: Path, command: str, *arguments: object) -> None:
    """Run a command that has to succeed.

    Args:
        log: Where its output goes.
        command: Its name, e.g. 'train'.
        *arguments: What it is given.

    Raises:
        SystemExit: If it fails; the end of the log is shown.
    """
    status = execute(['mmnorm', command, *map(str, arguments)], log)
    if status:
        print(log.read_text(encoding='utf-8', errors='replace')[-_TAIL:], file=sys.stderr)
        sys.exit(f'mmnorm {command} failed (status {status}); the whole log is {log}')


def add_gpus_argument(parser: argparse.ArgumentParser) -> None:
    """The option of :func:`run_on_gpus`."""
    parser.add_argument(
        '--gpus',
        type=int,
        metavar='N',
        help='run on N GPUs of this machine, a process each; on CPUs it uses gloo. NNODES, NODE_RANK, MASTER_ADDR and '
        'PORT in the environment are those of torchrun',
    )


def run_on_gpus(command: str, args: argparse.Namespace) -> None:
    """Where ``--gpus`` asks for several processes, become them; in each of them, or without, do nothing.

    Args:
        command: The command of mmnorm that runs now, by its name.
        args: Its options, with those of :func:`add_gpus_argument` and ``launcher``.

    Raises:
        UsageError: If there are not as many.
    """
    if args.gpus is None or args.launcher != 'none':
        return
    present = torch.cuda.device_count()
    if args.gpus < 1 or present and args.gpus > present:
        raise UsageError(f'--gpus {args.gpus}: expected a number from 1 to {present or "the number of CPU cores"}')
    if args.gpus == 1:
        return
    settings = {
        'nproc_per_node': args.gpus,
        'nnodes': os.environ.get('NNODES', '1'),
        'node_rank': os.environ.get('NODE_RANK', '0'),
        'master_addr': os.environ.get('MASTER_ADDR', '127.0.0.1'),
        'master_port': os.environ.get('PORT', '29500'),
    }
    torchrun = [sys.executable, '-m', 'torch.distributed.run', *(f'--{key}={value}' for key, value in settings.items())]
    words = [*torchrun, '-m', 'mmnorm', command, *sys.argv[1:], '--launcher', 'pytorch']
    sys.stdout.flush()
    if sys.platform == 'win32':
        # Where exec ends this process before the other has done its work, and parts words at their spaces.
        sys.exit(subprocess.call(words, env=environment()))
    os.execve(sys.executable, words, environment())
