"""List the configs that come with mmnorm, by the names that every command and ``_base_`` takes."""

import argparse
from fnmatch import fnmatchcase

from ..engine.own_configs import PREFIX, config_names, config_path
from ..errors import UsageError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('patterns', nargs='*', metavar='PATTERN', help="part of a name, or a pattern: '*_en_*'")
    parser.add_argument('--paths', action='store_true', help='print the files that they are, not their names')
    return parser.parse_args()


def main() -> None:
    """Print a name a line."""
    args = parse_args()
    for pattern in args.patterns or ('',):
        found = [name for name in config_names() if fnmatchcase(name.removeprefix(PREFIX), f'*{pattern}*')]
        if not found:
            raise UsageError(f'no config has {pattern!r} in its name; mmnorm configs lists all')
        for name in found:
            print(config_path(name) if args.paths else name)
