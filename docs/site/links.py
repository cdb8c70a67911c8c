"""Pages and links: other pages of the repository are on the site, too, and links that work on the forge work here."""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# Pages that stand elsewhere in the repository, by what they are called on the site.
PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'benchmarks/README.md': 'benchmarks.md',
}
LINK = re.compile(r'(?P<text>\[[^\[\]]*\])\((?!https?://|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)')
MATH = re.compile(r'<(span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</\1>', re.DOTALL)
# An option in running text, which browsers would break after its hyphens.
OPTION = re.compile(r'<code>(?=--[\w-]+</code>)')


def on_files(files, config):
    """Add the pages that stand elsewhere, and the files that pages link to, which are shown as they are."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    pages = [file for file in files if file.src_uri.endswith('.md')]
    linked = {target for page in pages for target in _targets(page)}
    for target in sorted(linked - PAGES.keys()):
        path = ROOT / target
        if path.is_dir():
            names = sorted(child.name for child in path.iterdir() if child.is_file())
            content = f'# {target}\n\n' + '\n'.join(f'* [{name}]({name})' for name in names)
            files.append(File.generated(config, _folder_page(target), content=content))
            # They are linked from there.
            linked = linked | {f'{target}/{name}' for name in names}
    for target in sorted(linked - PAGES.keys()):
        if not target.startswith('docs/') and (ROOT / target).is_file():
            files.append(File.generated(config, f'files/{target}', abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at where their targets are on the site; what leads nowhere is left for mkdocs to complain about."""
    here = _in_repository(page.file.src_uri)

    def move(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match['path']))
        if (ROOT / target).is_dir():
            place = _folder_page(target)
        else:
            place = target.removeprefix('docs/') if target.startswith('docs/') else PAGES.get(target, f'files/{target}')
        address = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.') + (match['anchor'] or '')
        return f'{_named(match["text"], target)}({address})'

    return LINK.sub(move, markdown)


def on_page_content(html, page, config, files):
    """Formulas as MathML, which browsers draw by themselves; options in one piece."""

    def draw(match):
        tex = match['tex'].replace('&amp;', '&').replace('&lt;', '<').replace('&gt;', '>')
        return convert(tex, display='block' if match['kind'] == '[' else 'inline')

    return OPTION.sub('<code class="option">', MATH.sub(draw, html))


def _folder_page(folder: str) -> str:
    """The page that lists the files of a folder."""
    return f'files/{folder}/index.md'


def _in_repository(name: str) -> str:
    if name.startswith('files/'):
        return name.removeprefix('files/')
    return {place: source for source, place in PAGES.items()}.get(name, f'docs/{name}')


def _named(text: str, target: str) -> str:
    """The text of a link: the title of the page where the repository has its file name."""
    if not text.endswith('.md]') or not (ROOT / target).is_file():
        return text
    return f'[{(ROOT / target).read_text(encoding="utf-8").partition("# ")[2].partition(chr(10))[0]}]'


def _targets(page) -> set[str]:
    folder = posixpath.dirname(_in_repository(page.src_uri))
    return {posixpath.normpath(posixpath.join(folder, match['path'])) for match in LINK.finditer(page.content_string)}
