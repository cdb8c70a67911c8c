"""mmengine loads through the reader of this project: what it reads in a run of the commands is data, and never run."""

import os
import os.path as osp
from dataclasses import dataclass
from urllib.parse import urlparse

import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler as OneCycle
from mmengine.runner import CheckpointLoader, get_deprecated_model_names, get_external_models
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..errors import UsageError
from ..files import read_checkpoint
from ..files.contents import LogBuffer, Method

# What mmengine downloads in ways of its own, or unpickles from memory.
_ELSEWHERE = {
    'pavi://': mmengine_checkpoint.load_from_pavi,
    r'(\S+\:)?s3://': mmengine_checkpoint.load_from_ceph,
    r'(\S+\:)?petrel://': mmengine_checkpoint.load_from_ceph,
}
_ANNEALING = {
    f'{OneCycle.__module__}.{function.__qualname__}': function
    for function in (OneCycle._annealing_cos, OneCycle._annealing_linear)
}
_OPENMMLAB = ('open-mmlab://', 'openmmlab://')


def use_own_reader(trust: bool = False) -> None:
    """Let mmengine read checkpoints by :func:`mmnorm.files.read_checkpoint`, in this process, from now on.

    mmengine's own loaders unpickle whatever a file says: upstream's with PyTorch before 2.6, onedl's where weights_only
    refuses. Importing mmnorm changes nothing of that; commands call this before they build anything. It is for files,
    and for what is downloaded by http(s) under whatever name (``torchvision://``, ``openmmlab://``, ``mmcls://``), read
    once it lies in PyTorch's cache. What mmengine unpickles in other ways (s3, petrel, pavi) is refused.

    Args:
        trust: Whether files may run code; see :func:`mmnorm.files.read_checkpoint`. The last call holds.
    """
    loaders = _Loaders(trust)
    CheckpointLoader.register_scheme('', loaders.load_from_local, force=True)
    CheckpointLoader.register_scheme(_OPENMMLAB, loaders.load_from_openmmlab, force=True)
    for scheme, own in _ELSEWHERE.items():
        CheckpointLoader.register_scheme(scheme, own if trust else loaders.load_from_elsewhere, force=True)
    # All of its loaders of addresses end there.
    mmengine_checkpoint.load_url = loaders.load_url


@dataclass(frozen=True)
class _Loaders:
    """mmengine's loaders of the same names, as far as they read."""

    trust: bool

    def load_from_local(self, filename: str, map_location=None) -> dict:
        return self._read(osp.expanduser(filename), map_location)

    def load_from_openmmlab(self, filename: str, map_location=None) -> dict:
        name = filename.partition('://')[2]
        name = get_deprecated_model_names().get(name, name)
        address = get_external_models().get(name)
        if address is not None and not address.startswith(('http://', 'https://')):
            raise UsageError(f'{filename} is the file {address}; give its path instead')
        return mmengine_checkpoint.load_from_openmmlab(filename, map_location)

    def load_from_elsewhere(self, filename: str, map_location=None) -> dict:
        raise UsageError(
            f'{filename} is not read: mmengine would run what it says while it is loaded. Copy it to a file and give '
            f'its path, or give --trust-checkpoint if you trust whoever made it.'
        )

    def load_url(self, url: str, model_dir: str | None = None, map_location=None, progress: bool = True) -> dict:
        """As torch.hub.load_state_dict_from_url, up to how the file is read."""
        folder = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
        path = osp.join(folder, osp.basename(urlparse(url).path))
        if not osp.exists(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(url, path, progress=progress)
        return self._read(path, map_location, source=url)

    def _read(self, path: str, map_location, source: str | None = None) -> dict:
        checkpoint = read_checkpoint(path, source, self.trust, map_location)
        return checkpoint if self.trust else _as_mmengine_has_it(checkpoint)


def _as_mmengine_has_it(checkpoint: dict) -> dict:
    """The objects of mmengine in the places where its Runner looks for them."""
    hub = checkpoint.get('message_hub')
    scalars = hub.get('log_scalars') if isinstance(hub, dict) else None
    if isinstance(scalars, dict):
        for name, log in scalars.items():
            if isinstance(log, LogBuffer):
                scalars[name] = HistoryBuffer(log.log_history, log.count_history, log.max_length)
    schedulers = checkpoint.get('param_schedulers')
    # Of several optimizers, a dict.
    groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    for state in (state for group in groups if isinstance(group, list) for state in group if isinstance(state, dict)):
        for name, value in state.items():
            if isinstance(value, Method):
                state[name] = _ANNEALING.get(value.path, value)
    # The config of mmcv 1.x, which mmengine would run on resuming, to compare the number of GPUs.
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)
    return checkpoint
