"""What the commands' options have in common."""

import argparse
from collections.abc import Iterable, Mapping

import torch

DTYPES = {name: getattr(torch, name) for name in ('float32', 'float16', 'bfloat16')}
MEMORY_FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


def memory_format(name: str, ndim: int) -> torch.memory_format:
    """That of a name of MEMORY_FORMATS, for tensors of so many dimensions."""
    return torch.channels_last_3d if name == 'channels_last' and ndim == 5 else MEMORY_FORMATS[name]


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are one line."""

    def error(self, message: str):
        self.exit(2, f'{self.prog}: {message}\n')


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive whole number')
    return int(text)


def device(text: str) -> torch.device:
    if text not in ('cpu', 'cuda'):
        raise argparse.ArgumentTypeError(f'{text!r} is neither cpu nor cuda')
    if text == 'cuda' and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError('cuda: PyTorch sees no GPU here')
    return torch.device(text)


def default_device() -> torch.device:
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def limit(text: str) -> tuple[str, float]:
    """``NAME=RATIO``."""
    name, _, ratio = text.partition('=')
    try:
        value = float(ratio)
    except ValueError:
        value = 0.0
    if not name or not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form NAME=RATIO, such as SN=0.60')
    return name, value


def check_limits(limits: Mapping[str, float], measured: Iterable[str], parser: Parser) -> None:
    """Refuse limits on what is not measured."""
    measured = list(measured)
    for name in limits:
        if name not in measured:
            parser.error(f'argument --at-most: {name!r} is not measured; measured are {", ".join(measured)}')


def missed_limits(limits: Mapping[str, float], ratios: Mapping[str, float], where: str) -> list[str]:
    """One line for each ratio above its limit; a ratio that is not a number counts as above."""
    return [
        f'missed: {name} takes {ratios[name]:.3f} of the time of BN ({where}), at most {most:g} was asked'
        for name, most in limits.items()
        if not ratios[name] <= most
    ]
