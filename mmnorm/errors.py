"""The error of the command line: something that the user gave, or that is missing, and what to do about it."""

import io
import sys
from collections.abc import Callable


class UsageError(Exception):
    """A message for the user, complete without a traceback."""


def run(main: Callable[[], None]) -> None:
    """Run the main function of a tool; a :class:`UsageError` becomes one message on stderr and exit status 2.

    Characters that the output has no code for come out as '?': on Windows a file that output goes to has few.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
    try:
        main()
    except UsageError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
