"""The hook that ends an architecture search: the best of some architectures that the controller draws."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader, Subset

from ..errors import UsageError
from ..registry import register_in
from .batch_average import unwrap
from .randomness import preserve_randomness, seed_everything

# First word of a key, as in exact_resume.
_DERIVE = 3


@register_in(HOOKS)
class DeriveHook(Hook):
    """Before a test, lets an EnasSearch draw architectures and run as the best of them on held-out images.

    As ENAS does (arXiv 1802.03268, Section 2.2). The genotype goes to ``genotype.json`` in the work dir, from where a
    config takes it: ``model.backbone.genotype=<work dir>/genotype.json``. The images are the held-out ones of
    ``train_dataloader``, never those of the test; which are used and what is drawn depends on the seed alone.

    Args:
        architectures: How many are drawn.
        batches: Over how many batches of held-out images they are compared.
    """

    def __init__(self, architectures: int = 10, batches: int = 1) -> None:
        for name, value in dict(architectures=architectures, batches=batches).items():
            if not isinstance(value, int) or value < 1:
                raise UsageError(f'{name} of DeriveHook: expected an integer of at least 1, got {value!r}')
        self.architectures, self.batches = architectures, batches

    def before_test(self, runner: Any) -> None:
        """Derive, say what was found, and write it."""
        model: Any = unwrap(runner.model)
        if not hasattr(model, 'derive'):
            raise UsageError(f'DeriveHook: expected an EnasSearch to be tested, got a {type(model).__name__}')
        model.eval()
        with preserve_randomness():
            seed_everything(_DERIVE, runner.seed)
            genotype, accuracy = model.derive(list(self._held_out(runner)), self.architectures)
        path = Path(runner.work_dir, 'genotype.json')
        found = json.dumps(dict(genotype=str(genotype), held_out_accuracy=accuracy), indent=2)
        path.write_text(f'{found}\n', encoding='utf-8')
        runner.logger.info(
            f'best of {self.architectures} architectures, {100 * accuracy:.2f} % of held-out images: {genotype}\n'
            f'wrote {path}; to train it: model.backbone.genotype={path}'
        )

    def _held_out(self, runner: Any) -> Any:
        cfg = runner.cfg.get('train_dataloader')
        found = None if cfg is None else runner.build_dataloader(cfg, seed=runner.seed)
        sizes = getattr(getattr(found, 'dataset', None), 'sizes', None)
        if found is None or sizes is None:
            raise UsageError('DeriveHook: expected a SearchDataset in train_dataloader, which has images held out')
        images = Subset(found.dataset, range(sizes[0], sum(sizes)))
        size = min(found.batch_sampler.batch_size, sizes[1])
        return islice(DataLoader(images, size, shuffle=True, collate_fn=found.collate_fn), self.batches)
