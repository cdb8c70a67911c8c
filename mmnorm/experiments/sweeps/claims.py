"""Which process trains a run, where several work off one plan."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claim(work_dir: Path, wait: bool = False) -> Iterator[bool]:
    """Have a work dir to oneself, until the end or until this process ends, however it does.

    Args:
        work_dir: Of a run; made if it is missing.
        wait: Until it is free.

    Yields:
        Whether it is; False only without ``wait``, where another process has it.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    # A lock of the file, not the file itself: nothing is left of a process that was killed.
    with (work_dir / '.claimed').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
