"""Commands with several jobs, such as ``mmnorm experiments list``."""

import argparse
from collections.abc import Callable


def job_adder(parser: argparse.ArgumentParser) -> Callable[[str, Callable, str], argparse.ArgumentParser]:
    """Let a parser ask for one of several jobs.

    Args:
        parser: That of the command.

    Returns:
        Adds a job, by its name, what runs it, and its help; gives back its parser. The options that are read have what
        runs it as ``job``.
    """
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(name: str, job: Callable, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(job=job)
        return command

    return add
