"""docs/experiments.md is what the file of experiments says."""

import re
from pathlib import Path

from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.document import describe, document

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/experiments.md').read_text()


def test_the_page_is_in_step():
    assert document(catalogue()) == PAGE, 'python tools/experiments.py document'


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
    assert 'not built: no image translation here' in describe(catalogue(), catalogue()['ilm/table6/in'])
