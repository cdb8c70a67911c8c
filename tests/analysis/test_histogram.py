"""The streaming histogram against numpy's of everything at once."""

import numpy as np
import pytest

from mmnorm.analysis.histogram import StreamingHistogram, quantiles


@pytest.mark.parametrize('scale', [1, 1e4])
def test_a_stream_whose_range_grows_both_ways(scale):
    random = np.random.default_rng(0)
    parts = [random.normal(i * (-1) ** i, 0.1 + i, (50, 3)) * scale for i in range(8)]
    histogram = StreamingHistogram(64)
    for part in parts:
        histogram.add(part)
    values = np.concatenate(parts).ravel()
    expected, _ = np.histogram(values, histogram.edges)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.counts.sum() == values.size
    # No value is outside, and the range is not lavish.
    assert histogram.width < 8 * np.ptp(values)
    bin_width = histogram.width / 64
    for probability in (0, 0.05, 0.5, 0.95, 1):
        exact = np.quantile(values, probability)
        assert abs(quantiles(histogram.counts, histogram.edges, [probability])[0] - exact) <= bin_width * 1.01


def test_merge_constants_and_what_is_not_finite():
    first, second = StreamingHistogram(), StreamingHistogram()
    first.add(np.full(7, 2.5))
    second.add(np.array([np.nan, np.inf, -40.0, 3.0]))
    first.merge(second)
    first.merge(StreamingHistogram())
    assert first.counts.sum() == 9
    low, middle, high = quantiles(first.counts, first.edges, (0, 0.5, 1))
    assert low == pytest.approx(-40, abs=0.3)
    assert middle == pytest.approx(2.5, abs=0.3)
    assert high == pytest.approx(3, abs=0.3)
    assert np.isnan(quantiles(np.zeros(4), np.arange(5), [0.5])).all()
