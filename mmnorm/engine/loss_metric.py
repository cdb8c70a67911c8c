"""What a model says of its own results, averaged over a test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from ..registry import register_in


@register_in(METRICS)
class LossMetric(BaseMetric):
    """Averages over all samples of what their ``losses()`` give, each under its name."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take in a batch."""
        self.results.extend(sample['losses']() for sample in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The averages."""
        return {name: float(np.mean([result[name] for result in results])) for name in results[0]}
