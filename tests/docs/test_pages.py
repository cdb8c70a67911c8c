"""What the pages say is there: files and sections behind links, commands, configs; `make docs` checks the site."""

import importlib.util
import re
from pathlib import Path

import pytest

import mmnorm
from mmnorm.engine.own_configs import config_path
from mmnorm.experiments.sweeps.summary import sum_up
from mmnorm.experiments.sweeps.table import read_table
from mmnorm_command import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    {ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'benchmarks/README.md')}
    | set((ROOT / 'docs').rglob('*.md'))
)
BY_NAME = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def anchors(page):
    """As forges and the site make them of headings."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@BY_NAME
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r'\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)', page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), path
        if anchor:
            assert anchor in anchors(target), f'{path}#{anchor}'


@BY_NAME
def test_commands_and_configs_are_there(page):
    text = page.read_text()
    for command in re.findall(r'(?:^ *|`|\n)(?:\.venv/bin/)?mmnorm ([a-z]\w+)', text):
        assert command in COMMANDS, command
    for name in re.findall(r'mmnorm::[\w/]+\.py', text):
        assert config_path(name).is_file()
    for name in re.findall(r'(?<![\w/.])((?:configs|tools|benchmarks|docs|mmnorm)/[\w/]+\.\w+)', text):
        # What is compiled is not in the repository.
        assert name == 'mmnorm/_loops.so' or (ROOT / name).is_file(), name


def test_the_reference_has_all_that_is_offered():
    pages = '\n'.join(page.read_text() for page in (ROOT / 'docs/reference').glob('*.md'))
    named = set(re.findall(r'mmnorm\.(\w+)', pages))
    # One class for 1d, 2d and 3d, made by a function, which a reader of the source does not see through.
    named |= {'SparseSwitchableNorm2d', 'SparseSwitchableNorm3d'} if 'SparseSwitchableNorm1d' in named else set()
    assert set(mmnorm.__all__) - named == {'NORM_LAYERS', '__version__'}
    for name in re.findall(r'^::: (\S+)$', pages, re.MULTILINE):
        module, _, attribute = name.rpartition('.')
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r'^ +- [^:\n]+: (\S+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE))
    pages = {page.relative_to(ROOT / 'docs').as_posix() for page in (ROOT / 'docs').rglob('*.md')}
    assert listed == pages | {'index.md', 'benchmarks.md', 'contributing.md', 'changelog.md'}


def test_figures_are_drawn_from_the_tables():
    spec = importlib.util.spec_from_file_location('figures', ROOT / 'docs/site/figures.py')
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    times, camvid = figures.read_times(), figures.read_camvid()
    readme = (ROOT / 'README.md').read_text()
    caption = f'SN {times["SN"]}, EN {times["EN"]}, ILM {times["ILM"]}'
    assert caption in readme
    assert times['EN, formula'] > 10 * times['EN']
    # What the figure of results.md is drawn from.
    assert [max(camvid[norm]) for norm in ('EN', 'BN')] == [1600, 1600]


def test_what_the_readme_says_is_in_the_tables_of_the_sweeps():
    readme = (ROOT / 'README.md').read_text()
    part = readme[readme.index('## What comes of it') : readme.index('## What was learned')]
    said = {'cifar10': ('batch_2', 0.01, ('SN', 'EN-r8', 'GN', 'BN'))}
    said['camvid'] = ('from_bn', 0.01, ('SN-0.98', 'EN-0.98', 'BN', 'BN-frozen', 'GN'))
    for plan, (name, rate, norms) in said.items():
        groups = sum_up(read_table(ROOT / f'docs/results/{plan}.jsonl'))
        found = {
            group.records[0].run.norm: f'{group.mean:.1f} ± {group.spread:.1f}'
            for group in groups
            if group.records[0].run.group == name and group.records[0].run.rate == rate and group.spread is not None
        }
        for norm in norms:
            assert found[norm] in part, (plan, norm)
