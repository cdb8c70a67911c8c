"""Writing a file entirely or not at all."""

import os
from collections.abc import Callable
from typing import BinaryIO


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write a file; it is complete, or as it was before, also if the process is killed or the machine goes down.

    Args:
        path: The file. What is written is first ``<path>.part`` beside it, which a killed process leaves behind, and
            the next one overwrites.
        write: Given the open file, writes the content.
    """
    path = os.fspath(path)
    partial = f'{path}.part'
    try:
        with open(partial, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
