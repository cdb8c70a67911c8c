"""Running the steps of a plan, each in a process of its own; what is done is passed over, what was stopped goes on."""

from collections.abc import Callable
from pathlib import Path

from ..cli.checks import check_operators
from ..cli.processes import execute
from ..errors import UsageError
from .commands import shell_line
from .plan import Step

# What a shell has of a program that Ctrl-C ended.
_INTERRUPTED = 130
# Runs a command; its output goes to the file; returns the exit status.
Execute = Callable[[list[str], Path], int]


def append_output(command: list[str], log: Path) -> int:
    """Run a command of mmnorm in a process of its own; what it says goes to the end of ``log``."""
    return execute(command, log, append=True)


def run(steps: list[Step], say: Callable[[str], None] = print, with_: Execute = append_output) -> None:
    """Run what is not done.

    Raises:
        UsageError: If a step fails; the rest is not run. If one needs operators of mmcv that are not there, none is.
        SystemExit: If it is interrupted.
    """
    for step in steps:
        if step.codebase == 'mmdet' and not step.done:
            check_operators(step.title)
    for number, step in enumerate(steps, 1):
        head = f'[{number}/{len(steps)}] {step.title}'
        if step.done:
            say(f'{head}: done, {step.result}')
            continue
        step.log.parent.mkdir(parents=True, exist_ok=True)
        step.prepare()
        say(f'{head}\n    {shell_line(step.command)}\n    log: {step.log}')
        try:
            status = with_(step.command, step.log)
        except KeyboardInterrupt:
            say(f'{step.title} was interrupted; the same command goes on from here')
            raise SystemExit(_INTERRUPTED) from None
        if status or not step.done:
            tail = ''.join(step.log.read_text(encoding='utf-8', errors='replace').splitlines(keepends=True)[-15:])
            ended = f'failed (status {status})' if status else f'ended without {step.result}'
            raise UsageError(
                f'{step.title} {ended}; the same command goes on from here. The end of {step.log}:\n{tail}'
            )


def check_gpus(needed: int, given: int | None) -> None:
    """Refuse a run on GPUs that are not there.

    Args:
        needed: What the plan takes.
        given: What the user gave in its place.

    Raises:
        UsageError: If there are fewer.
    """
    import torch

    present = torch.cuda.device_count()
    if given is None and needed > present:
        raise UsageError(
            f'this takes {needed} GPUs, {present} are visible. Give --gpus N to run it on N (1 without a GPU: CPU); '
            f'images a GPU stay, so the batch and with it the experiment is another. To see a row run, --tiny.'
        )
