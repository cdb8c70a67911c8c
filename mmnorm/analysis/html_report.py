"""One page of HTML with every figure that a checkpoint has, nothing beside it."""

import base64
import io
from collections import Counter
from collections.abc import Callable
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from ..errors import UsageError
from .figures.affine import affine_figure
from .figures.dynamics import dynamics_figure
from .figures.ratios import classes_figure, images_figure, layers_figure
from .figures.style import save_figure
from .figures.tsne import tsne_figure
from .figures.weights import parts_figure, weights_figure
from .history import History, history_of
from .html_page import write_page
from .record_file import LayerRecord, Record


def write_report(
    records: list[Record], path: str | Path, history: History | None = None, title: str = 'What the norms learned'
) -> list[str]:
    """Write the report of the last of ``records``; with several, in the order of training, also how it got there.

    Args:
        records: One or more.
        path: The .html file.
        history: What NormRatioHook logged, if it did; else the records are taken, if they are several.
        title: Of the page.

    Returns:
        What there is no figure of, and why.
    """
    record = records[-1]
    if history is None and len(records) > 1:
        history = history_of(records)
    body, left_out = [], []
    for heading, caption, draw in _figures(record, records, history):
        try:
            figure = draw()
        except UsageError as error:
            left_out.append(f'{heading}: {error}')
            continue
        body.append(_section(heading, caption, figure))
    if left_out:
        items = ''.join(f'<li>{escape(text)}</li>' for text in left_out)
        body.append(f'<h2>Not here</h2><ul class="note">{items}</ul>')
    body.append(_table(record))
    norms = Counter(layer.norm for layer in record.layers)
    summary = ', '.join(f'{count} {norm}' for norm, count in norms.items())
    summary = f'{record.title}: {summary} layers, {record.samples} samples.'
    write_page(path, title, summary, '\n'.join(body))
    return left_out


def _figures(
    record: Record, records: list[Record], history: History | None
) -> list[tuple[str, str, Callable[[], Figure]]]:
    learned = {layer.learns: layer.norm for layer in record.layers}
    figures = []
    if learned.keys() & {'weights', 'ratios'}:
        what = f'{learned["ratios"]}: average ratios.' if 'ratios' in learned else ''
        if 'weights' in learned:
            what = f'{learned["weights"]}: weights of mean and variance.'
        marks = 'Marks on top tell the convolution before each layer.'
        figures += [
            ('Importance along the layers', f'{what} {marks} (SN paper, Fig. 3)', lambda: weights_figure(record)),
            (
                'Importance by network part',
                'The same, averaged over the layers of each part; their number in brackets. (SN paper, Fig. 1c and 4)',
                lambda: parts_figure(record),
            ),
        ]
    if 'ratios' in learned:
        figures += [
            (
                'Ratios along the layers',
                'Averages; bands are one standard deviation over the samples. (EN paper, Fig. 4)',
                lambda: layers_figure([record]),
            ),
            (
                'Ratios by class',
                'Averages in three layers; bars are the standard error. (EN paper, Fig. 6)',
                lambda: classes_figure(record),
            ),
            (
                'Single images and their ratios',
                'Those whose ratios differ the most from each other. (EN paper, Fig. 7)',
                lambda: images_figure(record),
            ),
            (
                't-SNE of the ratios',
                'The ratios of all layers of each sample, in the plane. (EN paper, Fig. 8)',
                lambda: tsne_figure(records),
            ),
        ]
    if 'affine' in learned:
        figures.append(
            (
                'Predicted omega and beta',
                'Boxes are quartiles over samples and channels, lines the 5th to 95th percentile; the last panel is '
                'the standard deviation over samples, averaged over channels.',
                lambda: affine_figure(record),
            )
        )
    if history is not None:
        figures.append(
            (
                'Learning dynamics',
                'Averages in the course of training. (EN paper, Fig. 1a and 5)',
                lambda: dynamics_figure(history),
            )
        )
    return figures


def _section(heading: str, caption: str, figure: Figure) -> str:
    buffer = io.BytesIO()
    save_figure(figure, buffer)
    data = base64.b64encode(buffer.getvalue()).decode('ascii')
    return (
        f'<h2>{escape(heading)}</h2><figure><img alt="{escape(heading)}" src="data:image/png;base64,{data}">'
        f'<figcaption>{escape(caption)}</figcaption></figure>'
    )


def _table(record: Record) -> str:
    rows = [
        f'<tr><td class="number">{index}</td><td>{escape(layer.name)}</td><td>{layer.norm}</td>'
        f'<td>{escape(layer.conv)}</td><td class="number">{layer.channels}</td>'
        f'<td class="number">{"x".join(map(str, layer.size))}</td><td>{escape(_numbers(layer))}</td></tr>'
        for index, layer in enumerate(record.layers, 1)
    ]
    head = ''.join(f'<th>{name}</th>' for name in ('', 'layer', 'norm', 'after', 'channels', 'size', 'average'))
    unreached = ''
    if record.unreached:
        unreached = f'<p class="note">Not reached in eval mode: {escape(", ".join(record.unreached))}</p>'
    return f'<h2>Layers</h2><table><tr>{head}</tr>{"".join(rows)}</table>{unreached}'


def _numbers(layer: LayerRecord) -> str:
    if layer.learns == 'affine':
        return ', '.join(f'{name} {layer.values[f"{name}_mean"].mean():.3f}' for name in ('omega', 'beta'))
    return '; '.join(
        f'{kind}: ' + ', '.join(f'{n} {value:.2f}' for n, value in zip(layer.normalizers, values, strict=True))
        for kind, values in layer.weights.items()
    )
