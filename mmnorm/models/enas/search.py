"""Efficient neural architecture search, ENAS (arXiv 1802.03268), as a model of mmengine: SN paper, Section 4.4."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmpretrain.registry import MODELS as CLASSIFIERS
from torch import Tensor, nn

from ...errors import UsageError
from ...registry import register_in
from .controller import Controller
from .network import EnasNetwork
from .search_space import Genotype


@register_in(MODELS)
class EnasSearch(BaseModel):
    r"""Trains a network of shared weights and the controller that draws its architectures, by turns.

    Which turn it is the batch says (:class:`.SearchDataset`): with one of training images the shared weights learn,
    each time as another architecture; with one that is held out the controller does, by REINFORCE,

    .. math::
        \nabla_\theta \frac{1}{M} \sum_m -(R_m - b) \log p_\theta(a_m), \qquad
        R_m = \mathrm{accuracy}_m + \lambda \, \mathrm{entropy}_m

    with b the moving average of R, at the start the first one. The entropy is part of the reward alone, as in the
    paper.

    Args:
        shared: Config of a classifier with an :class:`.EnasNetwork` as backbone.
        controller: Arguments of :class:`.Controller`; its nodes are the network's.
        architectures: M, how many are drawn for a step of the controller.
        entropy_weight: lambda, in accuracy per nat.
        baseline_decay: Weight of the old value in b.
        data_preprocessor: mmpretrain's.
        init_cfg: As of mmengine's BaseModel.

    Attributes:
        shared: The classifier.
        controller: The controller.
        baseline: b, a scalar; nan before the first reward.

    Raises:
        UsageError: If the shared network has one architecture only or running statistics, or several processes train.
    """

    baseline: Tensor

    def __init__(
        self,
        shared: dict,
        controller: dict | None = None,
        architectures: int = 10,
        entropy_weight: float = 1e-4,
        baseline_decay: float = 0.99,
        data_preprocessor: dict | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__({'type': 'mmpretrain.ClsDataPreprocessor', **(data_preprocessor or {})}, init_cfg)
        if get_world_size() > 1:
            raise UsageError(
                f'ENAS searches in one process, got {get_world_size()}: leave out --gpus and --launcher. A cell that '
                f'was found trains on any number'
            )
        if not isinstance(architectures, int) or architectures < 1:
            raise UsageError(f'architectures of EnasSearch: expected an integer of at least 1, got {architectures!r}')
        if not 0 <= baseline_decay < 1:
            raise UsageError(
                f'baseline_decay of EnasSearch: expected a number from 0 to below 1, got {baseline_decay!r}'
            )
        self.shared = CLASSIFIERS.build(shared)
        _check_network(self.shared)
        self.controller = Controller(**{**(controller or {}), 'nodes': self.network.nodes})
        self.architectures, self.entropy_weight, self.baseline_decay = architectures, entropy_weight, baseline_decay
        self.register_buffer('baseline', torch.tensor(float('nan')))
        self.genotype: Genotype | None = None

    @property
    def network(self) -> EnasNetwork:
        """The network of shared weights."""
        return self.shared.backbone

    def forward(self, inputs: Tensor, data_samples: Sequence | None = None, mode: str = 'tensor') -> Any:
        """Run a batch as the architecture that was derived, or else as the controller's most likely one.

        Args:
            inputs: (N, 3, H, W).
            data_samples: One for each image.
            mode: 'tensor', 'loss' or 'predict', as the classifier takes it.
        """
        if self.genotype is None:
            with torch.no_grad():
                self.network.choose(self.controller.most_likely())
        else:
            self.network.choose(self.genotype)
        return self.shared(inputs, data_samples, mode)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """A step of the shared weights, or with held-out images of the controller.

        Returns:
            What is logged: ``loss``, or ``reward`` (mean accuracy, 0 to 1), ``baseline``, ``entropy`` and
            ``controller_loss``.
        """
        data = self.data_preprocessor(data, True)
        inputs, samples = data['inputs'], data['data_samples']
        turns = {bool(sample.get('held_out', False)) for sample in samples}
        if len(turns) > 1:
            raise UsageError(
                'a batch has training and held-out images: expected train_dataloader.batch_sampler to be '
                'a SearchBatchSampler'
            )
        lacking = {'shared', 'controller'} - {*getattr(optim_wrapper, 'optim_wrappers', ())}
        if lacking:
            raise UsageError(
                f'EnasSearch has no optimizer for {" and ".join(sorted(lacking))}: expected optim_wrapper with '
                f"constructor='PartsOptimWrapperConstructor' and parts=dict(shared=..., controller=...)"
            )
        if turns == {True}:
            return self._train_controller(inputs, samples, optim_wrapper['controller'])
        return self._train_shared(inputs, samples, optim_wrapper['shared'])

    def _train_shared(self, inputs: Tensor, samples: Sequence, optim_wrapper: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            self.network.choose(self.controller.draw(1).genotypes()[0])
        with optim_wrapper.optim_context(self.shared):
            losses = self.shared(inputs, samples, 'loss')
        loss, logged = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return logged

    def _train_controller(self, inputs: Tensor, samples: Sequence, optim_wrapper: Any) -> dict[str, Tensor]:
        with optim_wrapper.optim_context(self.controller):
            draw = self.controller.draw(self.architectures)
        accuracy = self.accuracies(draw.genotypes(), inputs, samples)
        reward = accuracy + self.entropy_weight * draw.entropy
        if self.baseline.isnan():
            self.baseline.copy_(reward.mean())
        loss = reinforce_loss(draw.log_prob, reward, self.baseline)
        optim_wrapper.update_params(loss)
        self.baseline.lerp_(reward.mean().to(self.baseline), 1 - self.baseline_decay)
        return dict(
            reward=accuracy.mean(),
            baseline=self.baseline.clone(),
            entropy=draw.entropy.mean(),
            controller_loss=loss.detach(),
        )

    @torch.no_grad()
    def accuracies(self, genotypes: Sequence[Genotype], inputs: Tensor, samples: Sequence) -> Tensor:
        """The accuracy of each architecture with the shared weights on a batch, (M,), from 0 to 1."""
        labels = torch.cat([sample.gt_label for sample in samples]).to(inputs.device)
        found = []
        with _in_eval_mode(self.shared):
            for genotype in genotypes:
                self.network.choose(genotype)
                found.append((self.shared(inputs).argmax(1) == labels).float().mean())
        return torch.stack(found)

    @torch.no_grad()
    def derive(self, batches: Sequence[Any], count: int) -> tuple[Genotype, float]:
        """Draw architectures and keep the best, as which the model runs from now on.

        Args:
            batches: Batches of held-out images, as the loader gives them.
            count: How many are drawn.

        Returns:
            The best, and its accuracy, from 0 to 1.
        """
        genotypes = self.controller.draw(count).genotypes()
        right, images = torch.zeros(count), 0
        for batch in batches:
            data = self.data_preprocessor(batch, False)
            size = len(data['data_samples'])
            right += size * self.accuracies(genotypes, data['inputs'], data['data_samples']).cpu()
            images += size
        best = int(right.argmax())
        self.genotype = genotypes[best]
        return genotypes[best], float(right[best]) / max(images, 1)


def reinforce_loss(log_prob: Tensor, reward: Tensor, baseline: Tensor) -> Tensor:
    """What has the REINFORCE gradient: the mean of -(reward - baseline) log_prob, of (M,), (M,) and a scalar."""
    return -(log_prob * (reward - baseline).detach()).mean()


def _check_network(shared: nn.Module) -> None:
    """Refuse a classifier whose backbone is not fit for a search."""
    network = getattr(shared, 'backbone', None)
    if not isinstance(network, EnasNetwork):
        raise UsageError(f'EnasSearch: expected shared.backbone to be an EnasNetwork, got {type(network).__name__}')
    if network.fixed is not None:
        raise UsageError('EnasSearch: shared.backbone has a genotype, and nothing is left to search; leave it out')
    for name, module in network.named_modules():
        if getattr(module, 'running_mean', None) is not None:
            raise UsageError(
                f'EnasSearch: {name} ({type(module).__name__}) keeps running statistics, which would be those of no '
                f'architecture. Give norm_cfg=dict(type=..., track_running_stats=False), or a norm without BN'
            )


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
