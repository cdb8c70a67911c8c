"""What all figures share: sizes of a paper's page, colours that colour-blind readers tell apart, the axis of layers."""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...errors import UsageError
from ..network_parts import stage_of
from ..record_file import LayerRecord

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Inches: the text width of a two-column page.
WIDTH = 7.0
# Okabe and Ito's colours, of different lightness too.
COLORS = {'IN': '#0072B2', 'LN': '#E69F00', 'BN': '#009E73', 'GN': '#CC79A7'}
SERIES = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
SERIES_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
MARKERS = {'IN': 'o', 'LN': 's', 'BN': '^', 'GN': 'D'}
_CONV_MARKERS = {'7x7': '*', '3x3': 's', '1x1': 'o', 'shortcut': '^', 'linear': 'D', '': 'x'}
_FORMATS = ('.pdf', '.png', '.svg')
_RC: dict['RcKeyType', Any] = {
    'font.size': 8,
    'axes.titlesize': 8,
    'axes.labelsize': 8,
    'xtick.labelsize': 7,
    'ytick.labelsize': 7,
    'legend.fontsize': 7,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.linewidth': 0.6,
    'xtick.major.width': 0.6,
    'ytick.major.width': 0.6,
    'lines.linewidth': 1.2,
    'lines.markersize': 3.5,
    'legend.frameon': False,
    # Text as text, not as outlines.
    'pdf.fonttype': 42,
    'svg.fonttype': 'none',
}


@contextmanager
def paper_style():
    """Fonts and lines for print, for the figures made inside."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of this size in inches, without pyplot's global state."""
    return Figure(figsize=(width, height), layout='constrained')


def check_figure_name(path: str | Path) -> None:
    """Refuse what no figure can be written to.

    Raises:
        UsageError: If the format is unknown, or the folder does not exist.
    """
    if Path(path).suffix not in _FORMATS:
        raise UsageError(f'a figure is written to {", ".join(_FORMATS)}, by the end of its name; got {path}')
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f'the folder of {path} does not exist')


def save_figure(figure: Figure, path) -> None:
    """Write a figure: vector graphics to .pdf and .svg, 200 dpi to .png."""
    with paper_style():
        figure.savefig(path, dpi=200)


def normalizers_of(layers: Iterable[LayerRecord]) -> list[str]:
    """Every normalizer that is in the pool of any of the layers, in the usual order."""
    present = {normalizer for layer in layers for normalizer in layer.normalizers}
    return [normalizer for normalizer in COLORS if normalizer in present]


def share(layer: LayerRecord, values, normalizer: str) -> float:
    """The value of ``normalizer`` among those of a layer (K,), 0 if it is not in its pool."""
    return float(values[layer.normalizers.index(normalizer)]) if normalizer in layer.normalizers else 0.0


def stack_bars(axes: Axes, layers: Sequence[LayerRecord], values: Sequence, horizontal: bool = False) -> None:
    """One bar for each layer, made of the shares of its normalizers, ``values`` [(K,), ...]."""
    bottom = [0.0] * len(layers)
    for normalizer in normalizers_of(layers):
        heights = [share(layer, row, normalizer) for layer, row in zip(layers, values, strict=True)]
        bar = axes.barh if horizontal else axes.bar
        start: dict[str, Any] = {'left' if horizontal else 'bottom': bottom}
        bar(range(1, len(layers) + 1), heights, 0.9, color=COLORS[normalizer], linewidth=0, **start)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]


def normalizer_legend(normalizers: Iterable[str]) -> list[Patch]:
    """A patch for each normalizer."""
    return [Patch(color=COLORS[normalizer], label=normalizer) for normalizer in normalizers]


def mark_convs(axes: Axes, layers: Sequence[LayerRecord]) -> list[Line2D]:
    """A row of marks that tell the kind of convolution before each layer; returns what goes into the legend."""
    handles = []
    for conv in dict.fromkeys(layer.conv for layer in layers):
        at = [i for i, layer in enumerate(layers, 1) if layer.conv == conv]
        marker = _CONV_MARKERS.get(conv, 'P')
        style: dict[str, Any] = dict(marker=marker, linestyle='', color='#333333')
        style['markersize'] = 4.5 if marker == '*' else 3
        # Hollow and filled are told apart at a glance.
        style['markerfacecolor'] = 'white' if conv in ('1x1', 'linear') else '#333333'
        style['markeredgewidth'] = 0.6
        axes.plot(at, [0.0] * len(at), **style)
        handles.append(Line2D([], [], label=conv or 'no convolution', **style))
    axes.set_ylim(-1, 1)
    axes.axis('off')
    return handles


def layer_axis(axes: Axes, layers: Sequence[LayerRecord], label: bool = True) -> None:
    """Layers by depth, with the stages of the network told below.

    Args:
        axes: Where the layers 1 to L stand along x.
        layers: These layers.
        label: Whether to write what it is, else only the lines between the stages.
    """
    count = len(layers)
    axes.set_xlim(0.3, count + 0.7)
    stages = [(stage, len(list(members))) for stage, members in groupby(layers, lambda layer: stage_of(layer.name))]
    start, spans = 0, []
    for stage, members in stages:
        if start:
            axes.axvline(start + 0.5, color='0.3', linewidth=0.5, linestyle=(0, (2, 2)))
        spans.append((stage, start + (members + 1) / 2, members))
        start += members
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200) if count / s <= 25)
    axes.set_xticks([i for i in range(1, count + 1) if i == 1 or i % step == 0])
    if not label:
        axes.tick_params(labelbottom=False)
        return
    # About 0.055 inch a character at 7 points.
    width = axes.figure.get_figwidth()  # type: ignore[union-attr]  # no figure here has subfigures
    per_layer = axes.get_position().width * width / (count + 0.4)
    crowded = any(0.055 * (len(a) + len(b)) / 2 + 0.04 > (y - x) * per_layer for (a, x, _), (b, y, _) in _pairs(spans))
    style = dict(rotation=35, ha='right', rotation_mode='anchor') if crowded else dict(ha='center')
    for stage, middle, _ in spans:
        axes.annotate(
            stage,
            (middle, 0),
            xycoords=('data', 'axes fraction'),
            xytext=(0, -20),
            textcoords='offset points',
            va='center' if not crowded else 'top',
            fontsize=7,
            color='0.3',
            annotation_clip=False,
            **style,
        )
    axes.set_xlabel('layer', labelpad=12 if not crowded else 34)


def _pairs(items: Sequence) -> Iterable:
    return zip(items[:-1], items[1:], strict=True)


def short_name(name: str) -> str:
    """A layer's name without what most have in common."""
    return name.removeprefix('backbone.')
