"""Checkpoints that are there entirely or not at all."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio.backends.registry_utils import backends

from ..files import write_atomically
from ..registry import SCOPE, is_free


class AtomicBackend(LocalBackend):
    """Local files that survive a process killed while it writes: a new version takes the place of the old at once.

    For ``CheckpointHook(backend_args=dict(backend='atomic'))``. mmengine writes a checkpoint where it is to be, and
    with ``max_keep_ckpts`` deletes the oldest before it writes the new one; killed in between, a run is left with a
    truncated checkpoint, or with none. Here a file is written under another name and renamed, and what is to be
    removed is kept until then.
    """

    # Shared: CheckpointHook removes with one instance and saves with another.
    _outdated: list[str] = []

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file; it has all of them, or still its old content."""
        filepath = os.fspath(filepath)
        os.makedirs(os.path.dirname(filepath) or '.', exist_ok=True)
        write_atomically(filepath, lambda file: file.write(obj))
        in_use = []
        while self._outdated:
            outdated = self._outdated.pop()
            if outdated != filepath and os.path.exists(outdated):
                try:
                    os.remove(outdated)
                except PermissionError:
                    # Windows removes no file that somebody reads. No reason to end a training: next time.
                    in_use.append(outdated)
        self._outdated.extend(in_use)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, as soon as the next one is complete.

        Raises:
            FileNotFoundError: If there is none.
        """
        if not os.path.exists(filepath):
            raise FileNotFoundError(f'filepath {filepath} does not exist')
        self._outdated.append(os.fspath(filepath))


register_backend(f'{SCOPE}.atomic', AtomicBackend, force=True)
if is_free('atomic', backends.get('atomic'), AtomicBackend):
    register_backend('atomic', AtomicBackend, force=True)
