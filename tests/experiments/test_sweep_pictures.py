"""What the networks of a segmentation see, from the work dirs of a sweep."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmnorm.analysis.inputs import build_model
from mmnorm.commands import sweep
from mmnorm.experiments.sweeps.pictures import pictures_figure
from mmnorm.experiments.sweeps.plan import read_plan
from mmnorm.experiments.sweeps.summary import sum_up
from mmnorm.experiments.sweeps.table import Record, append, read_table

CONFIG = 'segmentation/deeplab_bn_half_r18_camvid.py'
PLAN = f"""
config: {CONFIG}
metric: mIoU
norms: {{BN: {{}}, EN: {{flags: [--norm, EN]}}}}
sets:
  - {{name: x, batch: 2, iterations: 10, rates: [0.1, 0.2], seeds: [0]}}
"""
# The class that every network is set to find.
FOUND = {'BN': 3, 'EN': 5}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Five images of one grey each, whose labels are sky on the left and void on the right."""
    root = tmp_path_factory.mktemp('camvid')
    for kind in ('img', 'ann'):
        (root / kind / 'val').mkdir(parents=True)
    label = np.repeat([[0, 255]], 24, 1).repeat(36, 0).astype(np.uint8)
    for i in range(5):
        cv2.imwrite(str(root / f'img/val/{i}.jpg'), np.full((36, 48, 3), 40 * i, np.uint8))
        cv2.imwrite(str(root / f'ann/val/{i}.png'), label)
    return root


@pytest.fixture
def plan(tmp_path, scenes):
    """A plan of which all is done; the better rate is the second."""
    (tmp_path / 'plan.yaml').write_text(PLAN)
    read = read_plan(tmp_path / 'plan.yaml')
    for run in read.runs:
        append(read.table, Record(run, 100 * run.rate, [], [], {}, 1, 'v1'))
        folder = tmp_path / 'runs/plan' / run.folder
        folder.mkdir(parents=True)
        cfg = Config.fromfile(f'configs/{CONFIG}')
        cfg.val_dataloader.dataset.data_root = str(scenes)
        cfg.train_cfg.max_iters = 10
        cfg.custom_imports = dict(imports=['mmnorm'])
        cfg.dump(folder / 'deeplab_bn_half_r18_camvid.py')
        if run.rate == 0.2:
            init_default_scope('mmseg')
            model = build_model(cfg)
            model.decode_head.conv_seg.weight.data.zero_()
            model.decode_head.conv_seg.bias.data.zero_()[FOUND[run.norm]] = 1
            torch.save({'state_dict': model.state_dict()}, folder / 'iter_10.pth')
    return read


def test_pictures(plan, tmp_path, monkeypatch):
    figure = pictures_figure(sum_up(read_table(plan.table), best=True), tmp_path / 'runs/plan', 3)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ['image', 'label', 'BN', 'EN']
    shown = {}
    for axes in figure.axes:
        place = axes.get_subplotspec()
        shown[place.rowspan.start, place.colspan.start] = axes.get_images()[0].get_array()
    assert sorted(shown) == [(row, column) for row in range(3) for column in range(4)]
    # First, middle and last of five.
    assert [shown[row, 0].mean().round() for row in range(3)] == pytest.approx([0, 80, 160], abs=2)
    palette = Config.fromfile(f'configs/{CONFIG}').metainfo.palette
    label = shown[0, 1]
    assert (label[:, :24] == palette[0]).all()
    assert (label[:, 24:] == 0).all()
    assert all((shown[row, 2] == palette[3]).all() and (shown[row, 3] == palette[5]).all() for row in range(3))

    out = tmp_path / 'pictures.png'
    words = ['sweep', 'pictures', str(plan.path), 'x', '--root', str(tmp_path / 'runs'), '--images', '1']
    monkeypatch.setattr('sys.argv', [*words, '--out', str(out)])
    sweep.main()
    height, width = cv2.imread(str(out)).shape[:2]
    assert width == 1400
    assert height < width / 2


def test_refused(plan, tmp_path, monkeypatch):
    groups = sum_up(read_table(plan.table))
    gone = next(group for group in groups if group.records[0].run.rate == 0.1)
    with pytest.raises(sweep.UsageError, match=r'iter_10\.pth is gone'):
        pictures_figure([gone], tmp_path / 'runs/plan', 1)
    with pytest.raises(sweep.UsageError, match='give theirs by --root'):
        pictures_figure(groups, tmp_path / 'elsewhere', 1)
    words = ['sweep', 'pictures', str(plan.path), 'x', '--images', '0', '--out', str(tmp_path / 'a.png')]
    monkeypatch.setattr('sys.argv', words)
    with pytest.raises(sweep.UsageError, match='--images: expected at least 1, got 0'):
        sweep.main()
