"""The figure of the layers' times and memory."""

from pathlib import Path

# A color a layer; dashes for the formulas written out, dots for those compiled.
COLORS = {
    'BN': 'black',
    'GN': 'gray',
    'SN': 'tab:blue',
    'SSN': 'tab:cyan',
    'EN': 'tab:orange',
    'ILM': 'tab:green',
    'floor': 'tab:red',
}
LINES = {'': '-', 'plain': '--', 'compiled': ':'}
QUANTITIES = {
    'forward / BN': 'forward, time of BN',
    'backward / BN': 'backward, time of BN',
    'forward+backward / BN': 'forward+backward, time of BN',
    'peak / input': 'peak memory, inputs',
}


def draw_layers(results: list[dict], means: list[dict], caption: str, file: Path) -> None:
    """Save a figure: a row for each memory format and type, a column a quantity, a line a layer over the shapes."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys((result['memory_format'], result['dtype'], result['then']) for result in results))
    shapes = list(dict.fromkeys(result['shape'] for result in results))
    width = 4 + 0.25 * max(0, len(shapes) - 8)
    size = (width * len(QUANTITIES), 3.6 * len(groups) + 1)
    figure, axes = plt.subplots(len(groups), len(QUANTITIES), figsize=size, squeeze=False, layout='constrained')
    for row, group in zip(axes, groups, strict=True):
        for axis, (quantity, label) in zip(row, QUANTITIES.items(), strict=True):
            values: dict[str, list[float]] = {}
            for result in [*results, *means]:
                if (result['memory_format'], result['dtype'], result['then']) == group:
                    values.setdefault(result['layer'], []).append(result[quantity])
            for layer, heights in values.items():
                kind, _, variant = layer.partition('-')
                style = {'color': COLORS[kind], 'linestyle': LINES[variant], 'marker': '.', 'label': layer}
                axis.plot(range(len(shapes)), heights[:-1], **style)
                # The mean over the shapes stands for itself.
                axis.plot(len(shapes), heights[-1], **{**style, 'marker': 'D', 'markersize': 4, 'label': None})
            if quantity.startswith('peak'):
                axis.set_ylim(bottom=0)
            else:
                axis.set_yscale('log', nonpositive='mask')
                axis.yaxis.set_major_formatter('{x:g}')
            axis.set_xticks(range(len(shapes) + 1), [*shapes, 'mean'], rotation=60, ha='right', fontsize=7)
            axis.grid(alpha=0.3)
            axis.set_title(f'{", ".join(group)}: {label}', fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=12, fontsize=8)
    figure.suptitle(caption, fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)
