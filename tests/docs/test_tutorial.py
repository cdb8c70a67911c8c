"""The tutorial, as it stands in the page, with fewer images and iterations."""

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers import in_fork

PAGE = (Path(__file__).parents[2] / 'docs/tutorial.md').read_text()


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new)


def test_from_files_to_figures(tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    shapes, config = blocks('python')
    exec(replaced(shapes, "(('train', 60), ('val', 12))", "(('train', 4), ('val', 2))"), {})
    Path('deeplab_shapes.py').write_text(replaced(config, 'iterations = 150', 'iterations = 2'))
    (commands,) = blocks('sh')
    for line in replaced(commands, 'iter_150', 'iter_2').splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == 'mmnorm'
        in_fork(tmp_path / f'{command}.log', command, *arguments)
    (scalars, *_) = sorted(Path('work_dirs/shapes_en').glob('*/vis_data/scalars.json'))
    assert 0 <= json.loads(scalars.read_text().splitlines()[-1])['mIoU'] <= 100
    assert 'disc' in Path('test.log').read_text()
    assert Path('layers.png').read_bytes().startswith(b'\x89PNG')
