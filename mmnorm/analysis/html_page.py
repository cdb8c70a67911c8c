"""The frame of the HTML pages that are written here: one file, nothing beside it."""

import os
from html import escape
from pathlib import Path

from ..errors import UsageError

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
img {{ max-width: 100%; height: auto }} figure {{ margin: 0 0 2em }} figcaption, .note {{ color: #555 }}
table {{ border-collapse: collapse; font-size: 13px }} td, th {{ padding: .15em .8em; text-align: left }}
tr:nth-child(even) {{ background: #f4f4f4 }} td.number {{ text-align: right; font-variant-numeric: tabular-nums }}
pre {{ background: #f4f4f4; padding: .5em .8em; white-space: pre-wrap; overflow-wrap: anywhere }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{body}
</body></html>
"""


def check_page_name(path: str | Path) -> None:
    """Raise a UsageError for a page that cannot be written, before anything is run."""
    if Path(path).suffix != '.html' or not Path(path).absolute().parent.is_dir():
        raise UsageError(f'--out: expected the name of an .html file in an existing folder, got {path}')


def write_page(path: str | Path, title: str, summary: str, body: str) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The .html file.
        title: Of the page, as text.
        summary: The paragraph below it, as text.
        body: The rest, as HTML.
    """
    page = _PAGE.format(title=escape(title), summary=escape(summary), body=body)
    partial = f'{path}.part'
    Path(partial).write_text(page, encoding='utf-8')
    os.replace(partial, path)
