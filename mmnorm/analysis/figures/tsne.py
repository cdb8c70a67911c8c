"""t-SNE of the ratios of all layers, over training: EN paper (2003.08761), Fig. 8."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...errors import UsageError
from ..record_file import Record
from .ratios import class_label
from .style import SERIES, WIDTH, new_figure, paper_style

_FEWEST = 5


def tsne_figure(
    records: list[Record], names: list[str] | None = None, num_samples: int = 2000, seed: int = 0
) -> Figure:
    """EN paper, Fig. 8: the concatenated ratios of each sample in the plane, a panel for each point of training.

    Each panel is an embedding of its own; what counts is who is near whom. Colours are classes, if there are labels.

    Args:
        records: In the order of training; their titles are those of the panels.
        names: Layers; all by default.
        num_samples: Take so many samples at most, at random.
        seed: Of what is random.

    Raises:
        UsageError: If scikit-learn is missing, a layer does not exist, or there are too few samples.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise UsageError('t-SNE needs scikit-learn: pip install scikit-learn') from None
    columns = min(4, len(records))
    rows = -(-len(records) // columns)
    side = WIDTH / max(columns, 2)
    handles: list[Line2D] = []
    with paper_style():
        figure = new_figure(0.35 + rows * (0.8 * side + 0.1))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
        for axes in grid.flat[len(records) :]:
            axes.axis('off')
        for axes, record in zip(grid.flat, records, strict=False):
            features = np.concatenate([layer.values['ratios'] for layer in record.per_sample(names)], axis=1)
            if len(features) < _FEWEST:
                raise UsageError(f'{record.title or "the record"} has {len(features)} samples; t-SNE needs {_FEWEST}')
            chosen = np.random.default_rng(seed).permutation(len(features))[:num_samples]
            features = features[chosen].astype(np.float64)
            labels = None if record.labels is None else record.labels[chosen]
            axes.set_title(record.title)
            axes.set_aspect('equal', 'datalim')
            if np.ptp(features, axis=0).max() < 1e-7:
                # As at the start of training: there is nothing to embed.
                style = dict(ha='center', va='center', transform=axes.transAxes, fontsize=7)
                axes.text(0.5, 0.5, 'all samples have\nthe same ratios', **style)
                continue
            perplexity = min(30.0, (len(features) - 1) / 3)
            # Its own scaling is for features of about this size, and ratios differ by far less.
            features = (features - features.mean(0)) / features.std()
            points = TSNE(perplexity=perplexity, init='pca', random_state=seed).fit_transform(features)
            handles = _scatter(axes, points, labels, record) or handles
        if handles:
            longest = max(len(str(handle.get_label())) for handle in handles)
            figure.legend(
                handles=handles,
                loc='outside lower center',
                ncols=min(len(handles), 10 if longest < 8 else 5),
                columnspacing=1,
            )
    return figure


def _scatter(axes, points: np.ndarray, labels: np.ndarray | None, record: Record) -> list[Line2D]:
    style = dict(linestyle='', markersize=3, markeredgewidth=0)
    if labels is None:
        axes.plot(*points.T, marker='o', color=SERIES[0], **style)
        return []
    present = np.unique(labels)
    handles = []
    for index, label in enumerate(present):
        # Up to 20 are told apart by colour and marker together; more are not named at all.
        color = SERIES[index % 7] if len(present) <= 20 else matplotlib.colormaps['viridis'](index / len(present))
        own: dict[str, Any] = dict(style, color=color, marker='os^Dv<>pPX'[index % 10])
        axes.plot(*points[labels == label].T, **own)
        handles.append(Line2D([], [], label=class_label(record, int(label)), **{**own, 'markersize': 4}))
    return handles if len(handles) <= 20 else []
