"""The error of the command line: something that the user gave, or that is missing, and what to do about it."""

import io
import os
import sys
from collections.abc import Callable


class UsageError(Exception):
    """A message for the user, complete without a traceback."""


def run(main: Callable[[], None]) -> None:
    """Run the main function of a tool; a :class:`UsageError` becomes one message on stderr and exit status 2.

    Where nothing reads the output any more, it ends without a word, with exit status 1.

    Characters that the output has no code for come out as '?': on Windows a file that output goes to has few.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads the output wants no more of it, as ``head`` does; Python would try again to write it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UsageError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
