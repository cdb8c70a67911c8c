"""A histogram of a stream of values whose range is not known beforehand."""

import numpy as np


class StreamingHistogram:
    """Counts of values in equal bins. Where a value lies outside, the range doubles and bins are merged in pairs.

    So memory is constant, and bins are at most twice as wide as knowing the range would have made them (4 times with
    values on both sides of the first ones).

    Args:
        bins: Number of bins, even.

    Attributes:
        counts: (bins,), int64.
        low: Where the first bin begins.
        width: Of all bins together.
    """

    def __init__(self, bins: int = 512) -> None:
        self.counts = np.zeros(bins, dtype=np.int64)
        self.low = self.width = 0.0

    def add(self, values: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Count ``values`` of any shape, each once or ``counts`` times; what is not finite is left out."""
        values = np.asarray(values, dtype=np.float64).ravel()
        finite = np.isfinite(values)
        values, counts = values[finite], None if counts is None else np.asarray(counts)[finite]
        if not values.size:
            return
        smallest, largest = values.min(), values.max()
        if not self.counts.any():
            # Twice the range of the first values, so that the next ones seldom lie outside.
            spread = max(largest - smallest, 1e-6 * max(abs(largest), 1))
            self.low, self.width = (smallest + largest) / 2 - spread, 2 * spread
        while largest >= self.low + self.width:
            self._merge_pairs(at=0)
        while smallest < self.low:
            self.low -= self.width
            self._merge_pairs(at=len(self.counts) // 2)
        index = ((values - self.low) * (len(self.counts) / self.width)).astype(np.int64)
        index = index.clip(0, len(self.counts) - 1)
        self.counts += np.bincount(index, counts, len(self.counts)).astype(np.int64)

    def merge(self, other: 'StreamingHistogram') -> None:
        """Add the counts of another, as if they were all in the middle of their bins."""
        used = other.counts > 0
        edges = other.edges
        self.add(((edges[1:] + edges[:-1]) / 2)[used], other.counts[used])

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, (bins + 1,)."""
        return self.low + self.width * np.arange(len(self.counts) + 1) / len(self.counts)

    def _merge_pairs(self, at: int) -> None:
        merged = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.zeros_like(self.counts)
        self.counts[at : at + len(merged)] = merged
        self.width *= 2


def quantiles(counts: np.ndarray, edges: np.ndarray, probabilities) -> np.ndarray:
    """Quantiles of a histogram, linear within a bin; NaN if it is empty."""
    used = np.flatnonzero(counts)
    if not used.size:
        return np.full(len(probabilities), np.nan)
    after = counts[used].cumsum()
    # Where each bin that has something begins and ends, so that nothing comes to lie in the empty ones between.
    ranks = np.stack([after - counts[used], after], 1).ravel()
    return np.interp(np.asarray(probabilities) * after[-1], ranks, np.stack([edges[used], edges[used + 1]], 1).ravel())
