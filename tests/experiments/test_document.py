"""docs/experiments.md is what the file of experiments says."""

import re
from pathlib import Path

import modelindex

from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.document import describe, document
from mmnorm.experiments.model_index import metafile
from mmnorm.registry import NORMS as REGISTERED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/experiments.md').read_text()


def test_the_page_is_in_step():
    assert document(catalogue()) == PAGE, 'python tools/experiments.py document'


def test_the_index_is_in_step_and_valid(capsys):
    assert metafile(catalogue()) == (ROOT / 'configs/metafile.yml').read_text(), 'mmnorm experiments document'
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.check()
    assert capsys.readouterr().out.strip() == 'All good!'
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')}
    assert {model.config for model in index.models} == {name for name in configs if '/_base_/' not in name}
    assert {collection.name for collection in index.collections} == {'SN', 'SSN', 'EN', 'ILM', 'BRN'} <= set(REGISTERED)


def test_results_of_the_index_are_those_of_the_config_as_it_stands():
    index = {model.name: model for model in modelindex.load(str(ROOT / 'model-index.yml')).models}
    demo = index['demo/deeplab_en_r18_digits']
    row = catalogue()['own/digits/demo-en']
    assert demo.in_collection == 'EN'
    assert [result.metrics for result in demo.results] == [
        {'mIoU %': float(row.here['miou']), 'mIoU %, several scales': float(row.here['miou_ms'])}
    ]
    assert index['deeplab_en_r50'].results is None
    assert index['cifar/resnet20_bn_cifar10_short'].results[0].metrics == {'top-1 %': 73.62}, (
        'not those with other norms'
    )
    assert index['imagenet/resnet50_en'].metadata.data['Parameters'] == 25_790_000


def test_every_row_and_figure_is_on_the_page():
    rows = {}
    for line in PAGE.splitlines():
        found = re.match(r'\| .* \| `((?:sn|en|ilm|own)/[\w/-]+)` \| ', line)
        if found:
            rows[found[1]] = line
    assert rows.keys() == catalogue().experiments.keys()
    for name, row in catalogue().experiments.items():
        for value in (*row.paper.values(), *row.here.values()):
            assert str(value) in rows[name], name


def cells(page, first):
    """The cells of the only line of a page's tables whose first cell is this."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith(f'| {first} |')]
    (line,) = lines
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_figures_of_other_pages_are_those_of_the_file():
    """What came of this project's own runs, the papers' figures beside them, and what networks cost."""
    pages = [ROOT / 'README.md', *(page for page in (ROOT / 'docs').glob('*.md') if page.name != 'experiments.md')]
    words = set(re.findall(r'[\d.]*\d', ' '.join(page.read_text() for page in pages)))
    for name, row in catalogue().experiments.items():
        figures = [str(value) for metric, value in row.here.items() if metric != 'note']
        if row.source == 'own':
            assert set(figures) <= words, f'{name}: {figures}'

    rows = [catalogue()[f'en/table5/cifar10-resnet20-{norm}'] for norm in ('bn', 'sn', 'en')]
    assert cells('docs/results.md', "paper, EN's Table 5: 128, 165")[1:4] == [str(row.paper['top1']) for row in rows]
    own = [catalogue()[f'own/cifar10/{norm}'] for norm in ('bn', 'sn', 'en', 'ilm')]
    assert cells('docs/results.md', '128, 4')[1:] == [str(row.here['top1']) for row in own]

    for norm in ('BN', 'GN', 'SN', 'EN'):
        row = catalogue()[f'en/table2/resnet50-{norm.lower()}']
        name, parameters, _, flops, *rest = cells('docs/analysis.md', norm)
        assert (name, parameters, flops) == (norm, f'{row.here["params"]} M', f'{row.here["gflops"]} G')
        assert rest[-1] in ('', f'{row.paper["params"]} M')
    for name, row in {'ILM': 'gn', 'ILM(key_group_size=1)': 'in'}.items():
        assert cells('docs/analysis.md', name)[-1] == f'+{catalogue()[f"ilm/table8/resnet50-{row}"].paper["added"]} %'


def test_nothing_is_left_to_the_papers():
    words = 'see the ' + 'paper'
    for path in (*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'configs').rglob('*.py')):
        assert words not in path.read_text(), path


def test_citations_name_the_version():
    """The first arXiv version of the SN paper has no Section 3.1 on inference and no segmentation in 4.3."""
    for path in (ROOT / 'configs').rglob('*.py'):
        for line in path.read_text().splitlines():
            if 'SN' in line and 'Section' in line:
                assert 'arXiv v1' in line or 'journal version' in line or 'EN paper' in line, f'{path}: {line}'


def test_a_row_in_words():
    text = describe(catalogue(), catalogue()['sn/table3/sn'])
    assert 'Switchable Normalization (arXiv 1806.10779, first version), Table 3, Section 4.2' in text
    assert 'AP 33.0, AP 0.5 52.9' in text
    assert 'starts from sn/table2/sn-8x32' in text
    assert 'as built: gpus 4, images 3, batch 12, optimizer SGD, rate 0.01, ' in text
    assert 'iterations 120000, ' in text
    assert 'not built: no whitening in the pool' in describe(catalogue(), catalogue()['sn/passing/whitening'])
