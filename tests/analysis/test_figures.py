"""The figures: they show the numbers of the record, no text lies on another, and what cannot be shown is refused."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from mmnorm.analysis.class_names import find_classes
from mmnorm.analysis.figures.affine import affine_figure
from mmnorm.analysis.figures.class_dynamics import class_dynamics_figure
from mmnorm.analysis.figures.dynamics import dynamics_figure
from mmnorm.analysis.figures.ratios import classes_figure, images_figure, layers_figure
from mmnorm.analysis.figures.style import check_figure_name, save_figure
from mmnorm.analysis.figures.tsne import tsne_figure
from mmnorm.analysis.figures.weights import parts_figure, weights_figure
from mmnorm.analysis.histogram import StreamingHistogram
from mmnorm.analysis.history import Curve, History, history_of
from mmnorm.analysis.html_report import write_report
from mmnorm.analysis.record_file import LayerRecord, Record
from mmnorm.errors import UsageError

RESNET50 = [
    'backbone.bn1',
    *(
        f'backbone.layer{stage}.{block}.{norm}'
        for stage, blocks in enumerate((3, 4, 6, 3), 1)
        for block in range(blocks)
        for norm in ('bn1', 'bn2', 'bn3', *(['downsample.1'] if block == 0 else []))
    ),
]
HEADS = [
    *(f'neck.{kind}_convs.{i}.bn' for kind in ('lateral', 'fpn') for i in range(4)),
    *(f'roi_head.bbox_head.shared_convs.{i}.bn' for i in range(4)),
    *(f'roi_head.mask_head.convs.{i}.bn' for i in range(4)),
]
POOL = ('IN', 'LN', 'BN')
CONVS = {'bn1': '1x1', 'bn2': '3x3', 'bn3': '1x1', '1': 'shortcut', 'bn': '3x3'}


def make(norm, names=RESNET50, samples=40, seed=0, classes=10, title='epoch 1'):
    random = np.random.default_rng(seed)
    layers = []
    for name in names:
        conv = '7x7' if name == 'backbone.bn1' else CONVS[name.rpartition('.')[2]]
        layer = LayerRecord(name, norm, conv, (8, 8), 6, () if norm == 'ILM' else POOL)
        if norm == 'SN':
            layer.values['weights'] = random.dirichlet([1, 1, 1], 2)
        elif norm == 'EN':
            ratios = random.dirichlet([2, 3, 4], samples)
            layer.values.update(ratios=ratios, mean=ratios.mean(0), std=ratios.std(0))
        else:
            for key, center in {'omega': 1.4, 'beta': 0.0}.items():
                values, histogram = random.normal(center, 0.2, (samples, 6)), StreamingHistogram()
                histogram.add(values)
                layer.values |= {f'{key}_counts': histogram.counts, f'{key}_edges': histogram.edges}
                layer.values |= {f'{key}_mean': values.mean(0), f'{key}_std': values.std(0), f'base_{key}': values[0]}
        layers.append(layer)
    return Record(
        layers,
        samples,
        np.arange(samples) % classes,
        tuple(f'class number {i}, of these' for i in range(classes)),
        random.integers(0, 255, (8, 96, 96, 3), dtype=np.uint8),
        np.arange(8),
        title=title,
    )


def texts_of(figure):
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def check_texts(figure):
    """No text lies on another or outside; returns what is written."""
    texts = texts_of(figure)
    # Ticks outside the limits are there but not drawn.
    hidden = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not (
            axes.axison
            and label.get_visible()
            and min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        )
    }
    texts = [text for text in texts if id(text) not in hidden]
    width, height = figure.canvas.get_width_height()
    # Boxes of rotated text overlap where the text does not.
    straight = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_rotation() in (0, 90)]
    for (a, first), (b, second) in itertools.combinations(straight, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), f'{a!r} lies on {b!r}'
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside, f'{text.get_text()!r} is cut off'
        assert text.get_fontsize() >= 6, f'{text.get_text()!r} cannot be read in print'
    return [text.get_text() for text in texts]


@pytest.mark.parametrize('norm', ['SN', 'EN'])
def test_weights_along_the_layers(norm):
    record = make(norm, RESNET50 + HEADS)
    figure = weights_figure(record)
    texts = check_texts(figure)
    assert {'IN', 'LN', 'BN', '7x7', '3x3', '1x1', 'shortcut', 'layer4', 'mask head'} <= set(texts)
    kinds = list(record.layers[0].weights)
    assert len(figure.axes) == 1 + len(kinds)
    for axes, kind in zip(figure.axes[1:], kinds, strict=True):
        for index, bars in enumerate(axes.containers):
            expected = [layer.weights[kind][index] for layer in record.layers]
            assert [bar.get_height() for bar in bars] == pytest.approx(expected)
        assert [bar.get_y() + bar.get_height() for bar in axes.containers[-1]] == pytest.approx([1] * len(expected))


def test_pools_that_differ():
    record = make('SN')
    record.layers[3].normalizers = ('LN', 'GN')
    record.layers[3].values['weights'] = np.array([[0.3, 0.7], [0.4, 0.6]])
    figure = weights_figure(record)
    heights = [bars[3].get_height() for bars in figure.axes[1].containers]
    assert heights == pytest.approx([0, 0.3, 0, 0.7]), 'IN, LN, BN, GN'
    assert 'GN' in check_texts(figure)


def test_weights_by_part():
    record = make('SN', RESNET50 + HEADS)
    figure = parts_figure(record)
    texts = check_texts(figure)
    assert {'backbone (53)', 'neck (8)', 'box head (4)', 'mask head (4)'} <= set(texts)
    heads = np.mean([layer.values['weights'] for layer in record.layers[-4:]], axis=0)
    for axes, row in zip(figure.axes, heads, strict=True):
        assert [bars[3].get_width() for bars in axes.containers] == pytest.approx(row)


def test_weights_of_several_networks():
    """SN paper, Fig. 4: one bar for each batch size; Fig. 1c: for each part of each task."""
    records = [make('SN', seed=seed, title=title) for seed, title in enumerate(('(8, 32)', '(8, 2)', '(8, 1)'))]
    records[2].layers[0].normalizers = ('IN', 'LN')
    records[2].layers[0].values['weights'] = np.full((2, 2), 0.5)
    figure = parts_figure(*records)
    assert [f'{title}: backbone (53)' for title in ('(8, 32)', '(8, 2)', '(8, 1)')] == [
        label.get_text() for label in figure.axes[0].get_yticklabels()
    ]
    check_texts(figure)
    for record, row in zip(records[:2], range(2), strict=True):
        expected = np.mean([layer.values['weights'] for layer in record.layers], axis=0)
        for axes, values in zip(figure.axes, expected, strict=True):
            assert [bars[row].get_width() for bars in axes.containers] == pytest.approx(values)
    parts = parts_figure(make('SN', title='classes'), make('SN', RESNET50 + HEADS, title='boxes'))
    assert {'classes: backbone (53)', 'boxes: box head (4)'} <= set(check_texts(parts))
    with pytest.raises(UsageError, match='weights of SN and ratios of EN are not the same thing'):
        parts_figure(make('SN'), make('EN'))


def test_layers_of_two_data_sets():
    records = [make('EN', seed=seed, title=title) for seed, title in enumerate(('ImageNet', 'digits'))]
    figure = layers_figure(records)
    assert {'ImageNet', 'digits', 'ratio of IN', 'layer3'} <= set(check_texts(figure))
    for axes, index in zip(figure.axes, range(3), strict=True):
        for line, record in zip(axes.lines, records, strict=False):
            np.testing.assert_allclose(line.get_ydata(), [layer.values['mean'][index] for layer in record.layers])
    with pytest.raises(UsageError, match=r'different EN layers \(53 and 52\), e.g. backbone.bn1'):
        layers_figure([records[0], make('EN', RESNET50[1:])])


def test_ratios_by_class():
    record = make('EN')
    figure = classes_figure(record, ['backbone.layer2.0.bn1'], ['3', 'class number 7, of these'])
    assert {'layer2.0.bn1', 'class number 3', 'class number 7'} <= set(check_texts(figure))
    ratios = record.layers[RESNET50.index('backbone.layer2.0.bn1')].values['ratios']
    for index, line in enumerate(line for line in figure.axes[0].lines if line.get_marker() in 'os^'):
        expected = [ratios[record.labels == label, index].mean() for label in (3, 7)]
        assert line.get_ydata() == pytest.approx(expected)
    check_texts(classes_figure(make('EN', classes=20)))
    # The layer in which classes differ is found.
    record.layers[20].values['ratios'] = np.eye(3)[record.labels % 3]
    assert 'layer2.2.bn3' in [text.get_text() for text in texts_of(classes_figure(record))]
    with pytest.raises(UsageError, match='no sample of class 10; its 10 classes are class number 0'):
        classes_figure(record, classes=['10'])
    with pytest.raises(UsageError, match="no layer is called 'backbone.layer2.0.bn4'. Nearest: backbone.layer2.0.bn"):
        classes_figure(record, ['backbone.layer2.0.bn4'])
    record.labels = None
    with pytest.raises(UsageError, match='has no labels.*there are the figures weights'):
        classes_figure(record)


def test_images_beside_their_ratios():
    record = make('EN')
    # One of a kind, which has to be among those chosen.
    for layer in record.layers:
        layer.values['ratios'][5] = (1, 0, 0)
    figure = images_figure(record, count=3)
    texts = check_texts(figure)
    assert 'class number 5' in texts
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 3
    assert any(np.array_equal(picture, record.images[5]) for picture in pictures)
    record.images = record.images[:0]
    with pytest.raises(UsageError, match='has no images'):
        images_figure(record)


def test_tsne_separates_what_differs():
    records = [make('EN', title='epoch 0', classes=2), make('EN', title='epoch 5', classes=2)]
    for layer in records[0].layers:
        layer.values['ratios'] = np.full((40, 3), 1 / 3)
    for layer in records[1].layers:
        layer.values['ratios'] = layer.values['ratios'] * 0.1 + 0.9 * np.eye(3)[records[1].labels]
    figure = tsne_figure(records)
    texts = check_texts(figure)
    assert {'epoch 0', 'epoch 5', 'all samples have\nthe same ratios', 'class number 0', 'class number 1'} <= set(texts)
    first, second = (np.transpose(line.get_data()) for line in figure.axes[1].lines)
    assert len(first) == len(second) == 20
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * np.linalg.norm(first - first.mean(0), axis=1).mean()
    check_texts(tsne_figure([make('EN', classes=20)]))
    with pytest.raises(UsageError, match='has 3 samples; t-SNE needs 5'):
        tsne_figure([make('EN', samples=3)])


@pytest.mark.parametrize('norm', ['SN', 'EN', 'ILM'])
def test_dynamics(norm):
    records = [make(norm, seed=seed, title=f'epoch {seed + 1}') for seed in range(4)]
    history = history_of(records)
    assert history.unit == 'epoch'
    figure = dynamics_figure(history)
    texts = check_texts(figure)
    assert {'average over layers', 'bn1', 'layer4.2.bn3', 'epoch'} <= set(texts)
    assert {'SN': 'variance, BN', 'EN': 'BN', 'ILM': r'$\omega$'}[norm] in texts
    average, *_ = figure.axes
    values = [list(curve.values.values()) for curve in history.curves]
    for index, line in enumerate(average.lines):
        np.testing.assert_allclose(line.get_ydata(), np.mean([v[index] for v in values], axis=0))
    if norm == 'EN':
        curve = history.curves[5]
        np.testing.assert_allclose(curve.values['LN'], [record.layers[5].values['mean'][1] for record in records])
    assert len([axes for axes in dynamics_figure(history, ['backbone.bn1']).axes if axes.lines]) == 2
    with pytest.raises(UsageError, match="no layer is called 'bn1'; there are backbone.bn1"):
        dynamics_figure(history, ['bn1'])
    with pytest.raises(UsageError, match='at least two points in time'):
        dynamics_figure(history_of(records[:1]))
    with pytest.raises(UsageError, match='epoch 1 and epoch 2 are of different networks'):
        history_of([records[0], make(norm, RESNET50[1:], title='epoch 2')])


def test_dynamics_of_classes():
    """EN paper, Fig. 1a and 6: ratios of chosen classes in chosen layers over training."""
    records = [make('EN', seed=seed, title=f'epoch {10 * seed + 1}') for seed in range(3)]
    names = ['backbone.bn1', 'backbone.layer4.2.bn3']
    figure = class_dynamics_figure(records, names, ['2', 'class number 7'])
    texts = check_texts(figure)
    assert {'ratio of IN', 'ratio of BN', 'bn1', 'layer4.2.bn3', 'epoch', 'class number 2', 'class number 7'} <= set(
        texts
    )
    layer = [record.layers[RESNET50.index(names[1])] for record in records]
    axes = figure.axes[3 + POOL.index('LN')]
    for line, label in zip(axes.lines, (2, 7), strict=True):
        means = [one.values['ratios'][r.labels == label, 1].mean() for one, r in zip(layer, records, strict=True)]
        assert line.get_xdata().tolist() == [1, 11, 21]
        assert line.get_ydata() == pytest.approx(means)
    assert len(class_dynamics_figure(records, count=2).axes) == 6
    with pytest.raises(UsageError, match='no sample of class cat'):
        class_dynamics_figure(records, classes=['cat'])
    with pytest.raises(UsageError, match='at least two points in time'):
        class_dynamics_figure(records[:1])
    records[0].labels = None
    with pytest.raises(UsageError, match='has no labels'):
        class_dynamics_figure(records)


def test_classes_by_the_first_of_their_names():
    """ImageNet's classes have several."""
    names = {7: 'flute, transverse flute', 134: 'crane', 517: 'crane', 3: 'Newfoundland, Newfoundland dog'}
    assert find_classes(['Flute', '3', 'Newfoundland', '517'], names) == [7, 3, 3, 517]
    with pytest.raises(UsageError, match='several classes are called crane: 134, 517; give the number'):
        find_classes(['crane'], names)
    with pytest.raises(UsageError, match='no sample of class dog; its 4 classes are flute, transverse flute, crane'):
        find_classes(['dog'], names)


def test_dynamics_of_layers_that_were_logged_less_often():
    steps = np.arange(1, 5)
    curves = [
        Curve('backbone.a', 'EN', steps, {'BN': np.ones(4)}),
        Curve('backbone.b', 'EN', steps[:2], {'BN': np.zeros(2)}),
    ]
    figure = dynamics_figure(History(curves, 'iteration'))
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1, 1, 1, 1]


def test_affine_against_the_base():
    record = make('ILM')
    check_texts(affine_figure(record))
    base = {}
    for layer in record.layers:
        # A GN network has gn1 where another has bn1.
        name = layer.name.replace('bn', 'gn')
        base |= {f'{name}.weight': np.full(6, 2.0), f'{name}.bias': np.full(6, -0.5)}
    figure = affine_figure(record, base, 'epoch_9')
    assert any('epoch_9' in text for text in check_texts(figure))
    for axes, name, constant in zip(figure.axes, ('omega', 'beta'), (2.0, -0.5), strict=False):
        predicted, plain = axes.containers
        center = [bar.get_y() + bar.get_height() / 2 for bar in predicted]
        expected = [np.mean(layer.values[f'{name}_mean']) for layer in record.layers]
        np.testing.assert_allclose(center, expected, atol=0.1)
        assert [bar.get_y() for bar in plain] == pytest.approx([constant] * 53)
    with pytest.raises(UsageError, match='no layer in common.*expected e.g. backbone.bn1.weight of 6 values'):
        affine_figure(record, {'other.weight': np.ones(6)})


def test_figures_of_another_norm_are_refused():
    for draw in (classes_figure, images_figure, lambda record: layers_figure([record])):
        with pytest.raises(UsageError, match='has no EN layer, which this figure is of; it has SN'):
            draw(make('SN'))
    for draw in (weights_figure, parts_figure):
        with pytest.raises(UsageError, match='has no EN, SN or SSN layer.*Figures for ILM: affine'):
            draw(make('ILM'))
    with pytest.raises(UsageError, match='has no ILM, IEBN, RBN or SelfNorm layer'):
        affine_figure(make('EN'))


def test_formats(tmp_path):
    heads = {'pdf': b'%PDF', 'png': b'\x89PNG', 'svg': b'<?xml'}
    for suffix, head in heads.items():
        path = tmp_path / f'figure.{suffix}'
        save_figure(parts_figure(make('SN')), path)
        assert path.read_bytes().startswith(head)
    with pytest.raises(UsageError, match=r'written to .pdf, .png, .svg, by the end of its name; got figure.doc'):
        check_figure_name('figure.doc')
    with pytest.raises(UsageError, match='folder of .* does not exist'):
        check_figure_name(tmp_path / 'none/figure.pdf')


def test_report(tmp_path):
    path = tmp_path / 'report.html'
    records = [make('EN', RESNET50[:4], 12, title=f'epoch {i}', seed=i) for i in (1, 2)]
    records[-1].classes = ()
    assert write_report(records, path) == []
    page = path.read_text()
    assert page.count('src="data:image/png;base64,') == 7
    assert 'src="http' not in page
    assert 'href' not in page
    assert 'Learning dynamics' in page
    assert page.count('<tr>') == 5
    record = make('SN', RESNET50[:4], 12)
    record.layers[0].name = 'backbone.<script>'
    assert write_report([record], path) == []
    assert '<script>' not in path.read_text()
    record = make('EN', RESNET50[:4], 12)
    record.labels = None
    left_out = write_report([record], path)
    assert len(left_out) == 1
    assert 'no labels' in left_out[0]
    assert 'no labels' in path.read_text()
