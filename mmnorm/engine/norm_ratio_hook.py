"""The hook that logs in the course of training what the learned norms do."""

from functools import partial

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..layers.base import LearnedNorm
from ..registry import LEARNS, kinds_in_words, register_in
from .batch_average import is_sharded, unwrap


@register_in(HOOKS)
class NormRatioHook(Hook):
    """At the first iteration and every ``interval`` ones, logs averages of each learned norm.

    They go to the Visualizer, so to TensorBoard, WandB or vis_data/scalars.json, whichever backends the config has, and
    not to the lines of the log, which they would drown: ``EN/<layer>/<normalizer>``, the ratios, averaged over the
    batch of that iteration in all processes; ``SN/<layer>/mean_<normalizer>`` and ``var_<normalizer>``, the weights;
    ``ILM/<layer>/omega`` and ``beta``, what is predicted, averaged over samples and channels too.

    It looks by forward hooks, in the iterations that are logged and no others. A model that torch.compile has compiled
    does not call hooks that come later; for such a model only what is the same for every input (SN) is logged.

    Args:
        interval: Iterations between two logs.
    """

    # It stops watching before other hooks, such as BatchAverageHook, run the model.
    priority = 'ABOVE_NORMAL'

    def __init__(self, interval: int = 50) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval <= 0:
            raise ValueError(f'interval must be a positive integer, got {interval!r}')
        self.interval = interval
        self._handles: list = []
        # Sum over what was seen, its last value the number.
        self._sums: dict[str, Tensor] = {}

    def before_train(self, runner) -> None:
        """Say so if there is nothing to log."""
        if not _layers(runner.model):
            kinds = kinds_in_words(*LEARNS)
            runner.logger.warning(f'NormRatioHook: the model has no {kinds} layer, so there is nothing to log')

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Start watching, if this iteration is logged."""
        if runner.iter and not self.every_n_train_iters(runner, self.interval):
            return
        whole = not is_sharded(runner.model)
        for name, layer in _layers(runner.model).items():
            self._sums[name] = torch.zeros(len(layer.tags()) + 1, dtype=torch.float64)
            if layer.learns == 'weights' and whole:
                self._see(name, layer, (), {})
            else:
                watch = partial(self._see, name)
                self._handles.append(layer.register_forward_pre_hook(watch, with_kwargs=True))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Log what was seen."""
        if not self._sums:
            return
        self._stop()
        sums, self._sums = self._sums, {}
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            sums = _sum_over_processes(sums)
        scalars = {}
        for name, layer in _layers(runner.model).items():
            *total, count = sums[name].tolist()
            if count:
                tags = layer.tags()
                scalars.update({f'{layer.kind}/{name}/{tag}': t / count for tag, t in zip(tags, total, strict=True)})
        if scalars:
            runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def after_train(self, runner) -> None:
        """Leave nothing behind."""
        self._stop()
        self._sums = {}

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _see(self, name: str, layer: LearnedNorm, args: tuple, kwargs: dict) -> None:
        if layer.learns == 'weights':
            rows = layer.summary()
        else:
            x = (args[0] if args else next(iter(kwargs.values()))).detach()
            # Also of an empty batch: where EN's statistics are those of all processes, the others wait for this one.
            rows = layer.summary(x)
            if x.numel() == 0:
                return
        total = rows.sum(0).double().cpu()
        self._sums[name] += torch.cat([total, total.new_tensor([len(rows)])])


def _layers(model: nn.Module) -> dict[str, LearnedNorm]:
    modules = unwrap(model).named_modules()
    # FullyShardedDataParallel puts itself between the names.
    return {n.replace('_fsdp_wrapped_module.', ''): m for n, m in modules if isinstance(m, LearnedNorm) and m.learns}


def _sum_over_processes(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    device = 'cuda' if dist.get_backend() == 'nccl' else 'cpu'
    flat = torch.cat(list(sums.values())).to(device)
    dist.all_reduce(flat)
    pieces = flat.cpu().split([len(t) for t in sums.values()])
    return dict(zip(sums, pieces, strict=True))
