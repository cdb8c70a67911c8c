"""Draws the README's figures of speed and of CamVid anew, from the tables of performance.md and results.md."""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]


def table(page: str, row: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the one table of a page that has a row of this name."""
    lines = (DOCS / page).read_text(encoding='utf-8').splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith(f'| {row} |'))
    while lines[first - 1].startswith('|'):
        first -= 1
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith('|'))
    head, _, *rows = ([cell.strip() for cell in line.strip().strip('|').split('|')] for line in lines[first:last])
    return head, rows


def read_times() -> dict[str, float]:
    """Forward and backward in times of BatchNorm's, by layer; 'SN, formula' is what a research script computes."""
    head, rows = table('performance.md', 'contiguous, medians of seven runs')
    names, formula = [], False
    for name in head[1:]:
        formula = formula or name.startswith('formula')
        names.append(f'{name.removeprefix("formula: ")}, formula' if formula else name)
    times = dict(zip(names, rows[0][1:], strict=True))
    return {'BatchNorm': 1.0, **{name: float(value) for name, value in times.items() if not name.startswith('bytes')}}


def read_camvid() -> dict[str, dict[int, float]]:
    """The mIoU on CamVid in percent, by norm and iteration."""
    head, rows = table('results.md', 'EN | 18.53')
    return {
        norm: {int(step): float(value) for step, value in zip(head[1:], values, strict=True) if step.isdigit()}
        for norm, *values in rows
    }


def main() -> None:
    """Draw both."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    times = read_times()
    colors = ['#999999' if name.endswith('Norm') else '#d55e00' if 'formula' in name else '#0072b2' for name in times]
    figure, axis = plt.subplots(figsize=(7, 2.6), layout='constrained')
    bars = axis.barh(list(times), list(times.values()), color=colors)
    axis.bar_label(bars, fmt='%g', padding=3, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * max(times.values()))
    axis.set_xlabel("time of forward and backward on a CPU, in times of BatchNorm's")
    axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(DOCS / 'images/speed.png', dpi=120)

    figure, axis = plt.subplots(figsize=(7, 2.6), layout='constrained')
    for (norm, curve), color in zip(read_camvid().items(), ('#999999', '#0072b2'), strict=True):
        axis.plot(list(curve), list(curve.values()), marker='o', color=color)
        step, value = max(curve.items())
        axis.annotate(f'{norm}  {value:.2f}', (step, value), (8, -3), textcoords='offset points', color=color)
    axis.set(xlabel='iteration', ylabel='mIoU, %', xticks=list(curve), xlim=(min(curve) - 50, 1.12 * max(curve)))
    axis.spines[['top', 'right']].set_visible(False)
    figure.savefig(DOCS / 'images/results_camvid.png', dpi=120)


if __name__ == '__main__':
    main()
