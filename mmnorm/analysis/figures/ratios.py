"""EN's ratios along the layers of several data sets, by class, and of single images: EN paper, Fig. 4, 6 and 7."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...errors import UsageError
from ..class_names import choose_classes, class_name, first_name, some_of
from ..record_file import LayerRecord, Record
from .style import (
    COLORS,
    MARKERS,
    SERIES,
    SERIES_MARKERS,
    layer_axis,
    new_figure,
    normalizer_legend,
    normalizers_of,
    paper_style,
    share,
    short_name,
    stack_bars,
)


def layers_figure(records: list[Record]) -> Figure:
    """EN paper (2003.08761), Fig. 4: average ratios along the layers, one line for each data set.

    Bands are one standard deviation over the samples.

    Args:
        records: Of networks with the same layers; their titles name the lines.

    Raises:
        UsageError: If one has no EN, or their layers differ.
    """
    by_record = [record.that_learn('ratios') for record in records]
    layers = by_record[0]
    for record, others in zip(records[1:], by_record[1:], strict=True):
        ours, theirs = ([layer.name for layer in each] for each in (layers, others))
        if ours != theirs:
            different = sorted(set(ours) ^ set(theirs))[:3] or ['their order']
            raise UsageError(
                f'{records[0].title} and {record.title} have different EN layers ({len(ours)} and {len(theirs)}), e.g. '
                f'{", ".join(different)}; expected one architecture, trained or recorded on several data sets'
            )
    normalizers = normalizers_of(layers)
    with paper_style():
        figure = new_figure(0.8 + 1.05 * len(normalizers))
        panels = figure.subplots(len(normalizers), sharex=True, sharey=True, squeeze=False)[:, 0]
        x = np.arange(1, len(layers) + 1)
        handles = []
        for index, (record, own) in enumerate(zip(records, by_record, strict=True)):
            color, marker = (choice[index % len(choice)] for choice in (SERIES, SERIES_MARKERS))
            for panel, normalizer in zip(panels, normalizers, strict=True):
                mean, std = (np.array([share(v, v.values[k], normalizer) for v in own]) for k in ('mean', 'std'))
                panel.plot(x, mean, color=color, marker=marker, markersize=2.5)
                low, high = np.clip([mean - std, mean + std], 0, 1)
                panel.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
            handles.append(Line2D([], [], color=color, marker=marker, label=record.title or f'record {index + 1}'))
        for panel, normalizer in zip(panels, normalizers, strict=True):
            panel.set_ylabel(f'ratio of {normalizer}')
            panel.set_ylim(0, min(panel.get_ylim()[1], 1.04))
            layer_axis(panel, layers, label=panel is panels[-1])
        figure.legend(handles=handles, loc='outside upper center', ncols=min(len(handles), 4))
    return figure


def classes_figure(record: Record, names: list[str] | None = None, classes: list[str] | None = None) -> Figure:
    """EN paper, Fig. 6: average ratios of each class, in some layers; bars are the standard error.

    Args:
        record: With labels.
        names: Layers; by default the three in which the classes differ most.
        classes: Names or numbers of classes; at most 20, evenly taken, by default.

    Raises:
        UsageError: If the record has no labels, or a layer or class does not exist.
    """
    layers = record.per_sample(names)
    chosen = choose_classes(record, classes)
    layers = layers if names else _telling(record, layers, chosen, 3)
    with paper_style():
        figure = new_figure(0.75 + 1.15 * len(layers))
        panels = figure.subplots(len(layers), sharex=True, squeeze=False)[:, 0]
        for panel, layer in zip(panels, layers, strict=True):
            for offset, normalizer in enumerate(layer.normalizers):
                mean, error = [], []
                for label in chosen:
                    values = layer.values['ratios'][record.labels == label, offset]
                    mean.append(values.mean(dtype=np.float64))
                    error.append(values.std(dtype=np.float64) / np.sqrt(len(values)))
                x = np.arange(len(chosen)) + (offset - (len(layer.normalizers) - 1) / 2) * 0.18
                style = dict(color=COLORS[normalizer], marker=MARKERS[normalizer], linestyle='', capsize=1.5)
                panel.errorbar(x, mean, error, elinewidth=0.8, **style)
            panel.set_ylabel('ratio')
            panel.set_title(short_name(layer.name), loc='left', fontsize=7)
            panel.set_xlim(-0.6, len(chosen) - 0.4)
        texts = [class_label(record, label) for label in chosen]
        # 0.055 inch a character.
        room = 6.3 / len(texts)
        tilted = dict(rotation=40, ha='right', rotation_mode='anchor') if max(map(len, texts)) * 0.055 > room else {}
        panels[-1].set_xticks(range(len(texts)), texts, **tilted)
        normalizers = normalizers_of(layers)
        handles = [Line2D([], [], color=COLORS[n], marker=MARKERS[n], linestyle='', label=n) for n in normalizers]
        figure.legend(handles=handles, loc='outside upper center', ncols=len(handles))
    return figure


def images_figure(record: Record, names: list[str] | None = None, count: int = 6) -> Figure:
    """EN paper, Fig. 7: single images beside their ratios in each layer; those whose ratios differ the most.

    Args:
        record: With images.
        names: Layers; all by default.
        count: Number of images.

    Raises:
        UsageError: If the record has no images, or a layer does not exist.
    """
    layers = record.per_sample(names)
    if not len(record.images):
        raise UsageError(
            f'{record.title or "the record"} has no images; record them with num_images > 0, from a loader of '
            f'images with 1 or 3 channels'
        )
    ratios = np.concatenate([layer.values['ratios'][record.image_index] for layer in layers], axis=1)
    chosen = _most_different(ratios, count)
    with paper_style():
        figure = new_figure(0.65 + 0.8 * len(chosen))
        grid = figure.subplots(len(chosen), 2, squeeze=False, gridspec_kw=dict(width_ratios=[1, 7]))
        for (picture, bars), image in zip(grid, chosen, strict=True):
            sample = record.image_index[image]
            picture.imshow(record.images[image])
            picture.axis('off')
            if record.labels is not None:
                picture.set_title(class_label(record, record.labels[sample]), fontsize=6.5, pad=1.5)
            stack_bars(bars, layers, [layer.values['ratios'][sample] for layer in layers])
            bars.set_ylim(0, 1)
            bars.set_ylabel('ratios')
            layer_axis(bars, layers, label=bars is grid[-1, 1])
        handles = normalizer_legend(normalizers_of(layers))
        figure.legend(handles=handles, loc='outside upper center', ncols=len(handles))
    return figure


def class_label(record: Record, label: int) -> str:
    """The same, short enough for a figure: ImageNet has 'great white shark, white shark, man-eater, ...'."""
    name = first_name(class_name(record, label))
    return name if len(name) <= 18 else f'{name[:17]}…'


def _telling(record: Record, layers: list[LayerRecord], labels: list[int], count: int) -> list[LayerRecord]:
    """The layers in which the averages of the classes are furthest apart, by depth."""

    def spread(layer: LayerRecord) -> float:
        ratios = layer.values['ratios']
        return np.std([ratios[record.labels == label].mean(0) for label in labels], axis=0).sum()

    best = {layer.name for layer in sorted(layers, key=spread, reverse=True)[:count]}
    return [layer for layer in layers if layer.name in best]


def _most_different(rows: np.ndarray, count: int) -> list[int]:
    """Rows that are far from each other: the one furthest from the average, then always the furthest from those."""
    chosen: list[int] = []
    distance = np.linalg.norm(rows - rows.mean(0), axis=1)
    for _ in range(min(count, len(rows))):
        chosen.append(int(distance.argmax()))
        to_last = np.linalg.norm(rows - rows[chosen[-1]], axis=1)
        distance = np.minimum(distance, to_last) if len(chosen) > 1 else to_last
        distance[chosen] = -1
    return chosen


def some_layers(layers: list[LayerRecord], count: int) -> list[LayerRecord]:
    """At most ``count`` layers, evenly taken by depth."""
    return some_of(layers, count)
