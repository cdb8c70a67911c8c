"""The tutorial, as it stands in the page, with fewer images and iterations."""

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers import in_fork

PAGE = (Path(__file__).parents[2] / 'docs/tutorial.md').read_text(encoding='utf-8')
MASKS, BOXES = re.split(r"^## Boxes from COCO's JSON$", PAGE, flags=re.MULTILINE)


def blocks(text, language):
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new)


def run_commands(text, tmp_path, last):
    """The commands of a part of the page, as if training took ``last`` iterations in place of what the page says."""
    (commands,) = blocks(text, 'sh')
    for line in re.sub(r'iter_\d+', f'iter_{last}', commands).splitlines():
        program, command, *arguments = shlex.split(line)
        assert program == 'mmnorm'
        if command == 'test':
            config = Path(arguments[0])
            before = config.read_bytes()
        in_fork(tmp_path / f'{command}.log', command, *arguments)
    assert config.read_bytes() == before, 'a test leaves the config of the training'


def logged(work_dir):
    """What the last evaluation of a training has logged."""
    scalars, *_ = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    return json.loads(scalars.read_text().splitlines()[-1])


def test_from_masks_to_figures(tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    shapes, config = blocks(MASKS, 'python')
    exec(replaced(shapes, "(('train', 60), ('val', 12))", "(('train', 4), ('val', 2))"), {})
    Path('deeplab_shapes.py').write_text(replaced(config, 'iterations = 150', 'iterations = 2'))
    run_commands(MASKS, tmp_path, 2)
    assert 0 <= logged('work_dirs/shapes_en')['mIoU'] <= 100
    assert 'disc' in Path('test.log').read_text()
    assert Path('layers.png').read_bytes().startswith(b'\x89PNG')


def test_from_coco_json_to_figures(tmp_path, monkeypatch):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='mmdet needs the operators of mmcv')
    monkeypatch.chdir(tmp_path)
    shapes, config = blocks(BOXES, 'python')
    exec(replaced(shapes, "(('train', 120), ('val', 24))", "(('train', 8), ('val', 2))"), {})
    # Boxes hold what was drawn: a corner of their own, and both classes.
    written = json.loads(Path('shapes_coco/val.json').read_text())
    assert [a['id'] for a in written['annotations']] == list(range(1, 9))
    assert {a['category_id'] for a in written['annotations']} == {1, 2}
    Path('faster_rcnn_shapes.py').write_text(replaced(config, 'iterations = 300', 'iterations = 2'))
    run_commands(BOXES, tmp_path, 2)
    # Two iterations find nothing, but the annotations were there to be found: without any mmdet reports -1.
    assert 0 <= logged('work_dirs/shapes_rcnn')['coco/bbox_mAP'] <= 1
    assert 0 <= json.loads(Path('metrics.json').read_text())['coco/bbox_mAP'] <= 1
    assert len(list(Path('work_dirs/shapes_rcnn').glob('*/pictures/*.jpg'))) == 2
    assert Path('rcnn_layers.png').read_bytes().startswith(b'\x89PNG')
