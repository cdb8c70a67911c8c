"""The hook that estimates BN statistics anew whenever they are about to be used or saved."""

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import BaseAveragedModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATA_SAMPLERS, HOOKS
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from ..registry import register_in
from .batch_average import VARIANCES, run_batch, unwrap, update_bn_stats
from .randomness import preserve_randomness, seed_everything

# First word of a key, as in exact_resume.
_BATCH_AVERAGE = 3


@register_in(HOOKS)
class BatchAverageHook(Hook):
    """Batch average (:func:`mmnorm.update_bn_stats`) before evaluation, and before a checkpoint is saved.

    It follows the intervals of the run's CheckpointHook and validation; weights that were not changed in between are
    not measured twice. The batches come from the training data, with the training's augmentation, through a loader of
    its own, and the generators of random numbers go on as if nothing had happened: training sees the same data with
    and without. It does go on with the new running statistics, which only its moving average sees.

    With an EMAHook there are two networks, that in training and the average of its weights, and either may be evaluated
    and saved. Each gets the statistics that it has itself, so it takes twice the time.

    Args:
        num_iters: Number of batches in each process, at most one epoch of them.
        in_test: Do it before a test too, for a checkpoint that was trained without.
        variance: 'total' or 'average', as of :func:`mmnorm.update_bn_stats`.
    """

    # After the optimizer and EMAHook, before CheckpointHook.
    priority = 'BELOW_NORMAL'

    def __init__(self, num_iters: int = 200, in_test: bool = False, variance: str = 'total') -> None:
        if isinstance(num_iters, bool) or not isinstance(num_iters, int) or num_iters <= 0:
            raise ValueError(f'num_iters must be a positive integer, got {num_iters!r}')
        self.num_iters = num_iters
        if variance not in VARIANCES:
            raise ValueError(f'variance must be one of {", ".join(VARIANCES)}, got {variance!r}')
        self.in_test = in_test
        self.variance = variance
        # Whether the weights have changed since the last time.
        self._outdated = False
        # Averages of weights whose buffers change places with the network's for the time of an evaluation.
        self._swapping: list[BaseAveragedModel] = []

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """The weights are about to change."""
        self._outdated = True

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Before a checkpoint that is saved by iteration."""
        if any(
            self.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and self.is_last_train_iter(runner))
            for hook in self._checkpoint_hooks(runner, by_epoch=False)
        ):
            self._average(runner)

    def after_train_epoch(self, runner) -> None:
        """Before a checkpoint that is saved by epoch."""
        if any(
            self.every_n_epochs(runner, hook.interval, hook.save_begin)
            or (hook.save_last and self.is_last_train_epoch(runner))
            for hook in self._checkpoint_hooks(runner, by_epoch=True)
        ):
            self._average(runner)

    def before_val(self, runner) -> None:
        """Before an evaluation in the course of training."""
        self._average(runner)
        self._let_buffers_swap(runner)

    def after_val(self, runner) -> None:
        """The networks have changed places again."""
        self._let_buffers_be(runner)

    def before_test(self, runner) -> None:
        """Before a test, with the checkpoint that was loaded for it."""
        if self.in_test:
            self._outdated = True
            # As it was built, all of it is in training mode. Out of it, it will be asked what training is.
            runner.model.eval()
            self._average(runner)
        self._let_buffers_swap(runner)

    def after_test(self, runner) -> None:
        """The networks have changed places again."""
        self._let_buffers_be(runner)

    def after_train(self, runner) -> None:
        """What is evaluated after training is none of the hook's business."""
        self._outdated = False

    @staticmethod
    def _checkpoint_hooks(runner, by_epoch: bool) -> list[CheckpointHook]:
        return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.by_epoch == by_epoch]

    def _average(self, runner) -> None:
        if not self._outdated:
            return
        self._outdated = False
        self._average_network(runner, runner.model)
        source = unwrap(runner.model)
        for average in self._averages(runner):
            network = average.module
            if all(
                torch.equal(ours.to(theirs.device), theirs)
                for ours, theirs in zip(network.parameters(), source.parameters(), strict=True)
            ):
                # Before its beginning, and in a test: there is nothing to average anew.
                for ours, theirs in zip(network.buffers(), source.buffers(), strict=True):
                    ours.copy_(theirs)
                continue
            # The copy was made before training began and has never heard of frozen stages and norm_eval.
            for copy, original in zip(network.modules(), source.modules(), strict=True):
                copy.training = original.training
            self._average_network(runner, network, ' with the averaged weights')

    def _average_network(self, runner, network: nn.Module, which: str = '') -> None:
        loader = self._build_loader(runner)
        num_iters = min(self.num_iters, len(loader))
        runner.logger.info(f'Batch average over {num_iters} training batches{which}')
        with preserve_randomness():
            seed_everything(_BATCH_AVERAGE, runner.seed, get_rank(), runner.iter)
            update_bn_stats(network, loader, num_iters, _forward_of(runner), variance=self.variance)

    @staticmethod
    def _averages(runner) -> list[BaseAveragedModel]:
        return [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]

    def _let_buffers_swap(self, runner) -> None:
        """EMAHook evaluates the averaged weights in the network's place, but with the network's buffers by default."""
        self._swapping = [average for average in self._averages(runner) if not average.update_buffers]
        for average in self._swapping:
            average.update_buffers = True

    def _let_buffers_be(self, runner) -> None:
        for average in self._swapping:
            average.update_buffers = False
        self._swapping = []

    @staticmethod
    def _build_loader(runner) -> DataLoader:
        """The training data in whole batches, each process its part of them, in the order of a sampler of its own."""
        train, cfg = runner.train_dataloader, runner.cfg.get('train_dataloader')
        cfg = cfg if isinstance(cfg, dict) else {}
        sampler = DefaultSampler(train.dataset, shuffle=True, seed=runner.seed)
        # Other batches each time, but the same whether the run was resumed or not. Hence a new sampler each time: one
        # that groups images would begin with what the last time left over.
        sampler.set_epoch(runner.iter)
        batch_size = train.batch_size or train.batch_sampler.batch_size
        if cfg.get('batch_sampler'):
            defaults = dict(sampler=sampler, batch_size=batch_size)
            batch_sampler = DATA_SAMPLERS.build(cfg['batch_sampler'].copy(), default_args=defaults)
        else:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last=len(sampler) >= batch_size)
        return DataLoader(
            train.dataset,
            batch_sampler=batch_sampler,
            num_workers=train.num_workers,
            collate_fn=train.collate_fn,
            worker_init_fn=train.worker_init_fn,
            pin_memory=train.pin_memory,
        )


def _forward_of(runner):
    """How the run computes, mixed precision included."""

    def forward(model, batch):
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            # Its parts compute alike, and it has no context of its own.
            wrapper = next(iter(wrapper.values()))
        if not isinstance(wrapper, OptimWrapper):
            return run_batch(model, batch)
        with wrapper.optim_context(model):
            return run_batch(model, batch)

    return forward
