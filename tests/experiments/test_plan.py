"""What has to run for a row: commands in order, each once, and nothing that is done."""

import itertools

import pytest
from mmengine.config import Config, DictAction

from mmnorm.errors import UsageError
from mmnorm.experiments import run
from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.class_order import check_class_order
from mmnorm.experiments.commands import CONFIGS, Start, Variant, cfg_options, read_config
from mmnorm.experiments.plan import Planner, Step
from mmnorm.experiments.tiny import Tiny


def steps(name, root, **options):
    return Planner(catalogue(), root, **options).steps(catalogue()[name])


def options_of(command):
    return command[command.index('--cfg-options') + 1 :] if '--cfg-options' in command else []


def test_pretraining_first_then_the_row_then_its_test(tmp_path):
    pretraining, training, test = steps('en/table6/ade20k-en', tmp_path)
    assert pretraining.command[:5] == ['mmnorm', 'train', 'mmnorm::imagenet/resnet50_en.py', '--gpus', '8']
    assert 'train_dataloader.batch_size=32' in options_of(pretraining.command)
    assert training.command[:5] == ['mmnorm', 'train', 'mmnorm::deeplab_en_r50.py', '--gpus', '8']
    assert '--resume' in training.command
    assert f'model.backbone.init_cfg.checkpoint={pretraining.result}' in options_of(training.command)
    assert 'model.backbone.init_cfg.prefix=backbone.' in options_of(training.command)
    dumped = training.result.with_name('deeplab_en_r50.py')
    assert test.command[:6] == ['mmnorm', 'test', str(dumped), str(training.result), '--gpus', '8']
    assert '--tta' in test.command
    assert [step.result.name for step in (pretraining, training)] == ['epoch_100.pth', 'iter_100000.pth']


def test_seeds_share_the_pretraining(tmp_path):
    planner = Planner(catalogue(), tmp_path)
    found = planner.steps(catalogue()['sn/table4/sn'], seeds=(0, 1, 2))
    assert [step.title for step in found] == [
        'sn/table2/sn-8x32: training, seed 0',
        *(f'sn/table4/sn: training, seed {seed}' for seed in range(3)),
    ]
    assert ['randomness.seed=2' in options_of(step.command) for step in found] == [False, False, False, True]


def test_code_of_the_authors(tmp_path):
    (step,) = steps('sn/table2/sn-8x2', tmp_path, code=True)
    assert '--auto-scale-lr' in step.command
    assert 'model.backbone.zero_init_residual=True' in options_of(step.command)
    assert 'code_seed_0' in str(step.result)
    (step,) = steps('sn/table2/sn-8x2', tmp_path)
    assert '--auto-scale-lr' not in step.command
    *_, step = steps('sn/table3/sn', tmp_path, code=True)
    assert step.command[:5] == ['mmnorm', 'train', 'mmnorm::coco/faster_rcnn_sn_r50_c4.py', '--gpus', '8']
    assert step.result.name == 'iter_180000.pth'


def test_start_brings_the_colours_that_its_weights_know():
    """Detectron's GN weights see BGR without division, those of an ImageNet config RGB; C4 has two parts."""
    row = catalogue()['sn/table3/gn']
    source = read_config(catalogue()['sn/table2/gn-8x32'])
    cfg = read_config(row, start=Start('x.pth', source))
    assert cfg.model.data_preprocessor.bgr_to_rgb
    assert list(cfg.model.data_preprocessor.mean) == list(source.data_preprocessor.mean)
    starts = [cfg.model.backbone.init_cfg, cfg.model.roi_head.shared_head.init_cfg]
    assert [(start.checkpoint, start.prefix) for start in starts] == [('x.pth', 'backbone.')] * 2
    assert not read_config(row).model.data_preprocessor.bgr_to_rgb
    # Nothing to change where they are the same.
    settings = Start('x.pth', source).settings(read_config(catalogue()['sn/table3/sn']))
    assert not any('data_preprocessor' in key for key in settings)


def test_start_from_the_norm_itself_is_even():
    """What the config has of BN as its own weights are of a hub, the heads have no more."""
    row = catalogue()['en/table6/ade20k-en']
    alone, started = read_config(row), read_config(row, start=Start('x.pth', read_config(catalogue()[row.start])))
    parts = ('backbone', 'decode_head', 'auxiliary_head')
    assert [alone.model[part].norm_cfg.init_ratios for part in parts] == [(0.01, 0.01, 0.98)] * 3
    assert [started.model[part].norm_cfg.init_ratios for part in parts] == [None] * 3
    # The pipeline's say it of weights of their own.
    row = catalogue()['own/digits/pipeline-segmentation']
    started = read_config(row, start=Start('x.pth', read_config(catalogue()[row.start])))
    assert started.model.backbone.norm_cfg.init_ratios == (0.05, 0.15, 0.8)


@pytest.mark.parametrize('row', [row for row in catalogue().experiments.values() if row.config], ids=lambda row: row.id)
def test_options_say_what_the_row_says(row):
    """A command line makes the config that the tests build."""
    variant = Variant(code=row.code is not None, seed=3)
    words = cfg_options(variant.settings(row))[1:]
    pairs = (word.split('=', 1) for word in words)
    cfg = Config.fromfile(CONFIGS / row.config)
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
    assert cfg.to_dict() == read_config(row, variant).to_dict()


def test_test_of_one_data_set_on_the_other(tmp_path):
    training, test = steps('en/table4/webvision-en', tmp_path)
    assert 'mmnorm::webvision/resnet50_en_webvision.py' in training.command
    assert test.command[2:4] == ['mmnorm::imagenet/resnet50_en.py', str(training.result)]
    *_, test = steps('sn/text/batch-average-50k', tmp_path)
    assert test.command[test.command.index('--batch-average') + 1] == '196', 'of 256 images: 50,176'


@pytest.mark.parametrize(
    ('name', 'command', 'rows'),
    [
        ('sn/fig2/b', 'experiments compare', 3),
        ('sn/fig4/bars', 'analyze parts', 9),
        ('en/fig8/tsne', 'analyze tsne', 1),
    ],
)
def test_figures_run_what_they_are_of(tmp_path, name, command, rows):
    *trainings, figure = steps(name, tmp_path)
    assert len([step for step in trainings if 'training' in step.title]) == rows
    assert figure.command[:3] == ['mmnorm', *command.split()]
    assert figure.result.suffix == '.png'


def test_figures_name_their_rows_as_the_file_does(tmp_path):
    """Also those that are the run of another table's."""
    *_, figure = steps('ilm/fig4/curves', tmp_path)
    assert figure.command[3:5] == ['ilm/fig4/groups', 'ilm/fig4/channels']


@pytest.mark.parametrize(('name', 'number'), [('en/fig1/a', 100), ('en/fig5/curves', 100), ('en/fig8/tsne', 10)])
def test_figures_over_training_are_of_checkpoints_that_the_run_keeps(tmp_path, name, number):
    """Also before there are any."""
    row = catalogue()[name]
    training, figure = steps(name, tmp_path)
    checkpoints = [word for word in figure.command if word.endswith('.pth')]
    assert len(checkpoints) == len(set(checkpoints)) == number
    hook = read_config(catalogue()[row.of[0]]).default_hooks.checkpoint
    assert (hook.interval, hook.max_keep_ckpts) == (1, -1)
    _, figure = steps(name, tmp_path, shrink=Tiny(tmp_path))
    small = [word.rpartition('/')[2] for word in figure.command if word.endswith('.pth')]
    assert small == ['epoch_1.pth', 'epoch_2.pth'][: 1 if row.epochs != 'all' else 2]


def test_curves_of_training_have_an_accuracy_to_draw():
    """mmpretrain's heads report that of the batches of training only if they are told to."""
    figures = [row for row in catalogue().experiments.values() if '--training' in (row.draw or '')]
    assert {row.table.id for row in figures} == {'sn/fig2', 'en/fig3'}
    for row in catalogue().matching(name for figure in figures for name in figure.of):
        assert read_config(catalogue().run_of(row)).model.head.cal_acc, row.id


def test_small_figures_are_of_digits(tmp_path):
    """In place of flute, bald eagle, Newfoundland and castle; the options behind them stay."""
    *_, figure = steps('en/fig1/a', tmp_path, shrink=Tiny(tmp_path))
    words = figure.command[figure.command.index('--classes') + 1 :]
    assert words[:6] == ['eight', 'five', 'four', 'nine', '--layers', 'backbone.bn1']
    *_, figure = steps('en/fig8/tsne', tmp_path, shrink=Tiny(tmp_path))
    words = figure.command[figure.command.index('--classes') + 1 :]
    assert len(set(words[:10])) == 10
    assert words[10] == '--out'


def test_what_is_small_already(tmp_path):
    with pytest.raises(UsageError, match='own/digits/demo-en is small already'):
        steps('own/digits/demo-en', tmp_path, shrink=Tiny(tmp_path))


def test_every_row_that_is_built_has_a_plan(tmp_path):
    planner = Planner(catalogue(), tmp_path)
    for row in catalogue().experiments.values():
        kind = catalogue().run_of(row).kind
        if kind in ('not built', 'count'):
            with pytest.raises(UsageError, match='is not built' if kind == 'not built' else 'counted, not run'):
                planner.steps(row)
        else:
            assert planner.steps(row)[-1].command
            assert planner.gpus_needed(row) >= 1


def fake_steps(tmp_path):
    return [Step(f'step {i}', ['work', str(i)], tmp_path / f'{i}.done', tmp_path / f'{i}.txt') for i in range(3)]


def test_running_goes_on_where_it_stopped(tmp_path):
    done, said = [], []

    def work(command, log):
        number = int(command[1])
        log.write_text('a line\nthe reason\n')
        done.append(number)
        if number == 1 and done.count(1) == 1:
            return 1
        (tmp_path / f'{number}.done').touch()
        return 0

    with pytest.raises(
        UsageError, match=r'step 1 failed \(status 1\); the same command goes on from here(.|\n)*reason'
    ):
        run.run(fake_steps(tmp_path), said.append, work)
    run.run(fake_steps(tmp_path), said.append, work)
    assert done == [0, 1, 1, 2]
    assert sum('done' in line.splitlines()[0] for line in said) == 1

    (tmp_path / '2.done').unlink()
    with pytest.raises(UsageError, match='step 2 ended without'):
        run.run(fake_steps(tmp_path), said.append, lambda command, log: log.touch() or 0)


def test_an_interrupted_run_says_how_it_goes_on(tmp_path):
    def interrupt(command, log):
        raise KeyboardInterrupt

    said = []
    with pytest.raises(SystemExit, match='130'):
        run.run(fake_steps(tmp_path), said.append, interrupt)
    assert said[-1] == 'step 0 was interrupted; the same command goes on from here'


def test_operators_are_looked_for_before_anything_runs(tmp_path, no_operators):
    begun = []
    with pytest.raises(UsageError, match='own/digits/pipeline-detection: training, seed 0 needs mmdet'):
        run.run(steps('own/digits/pipeline-detection', tmp_path), begun.append, lambda command, log: begun.append(log))
    assert not begun


def test_gpus_that_are_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    run.check_gpus(2, None)
    run.check_gpus(8, 1)
    with pytest.raises(UsageError, match='takes 8 GPUs, 2 are visible. Give --gpus N'):
        run.check_gpus(8, None)


def test_order_of_the_classes(tmp_path):
    with pytest.raises(UsageError, match=r'synsets.txt is missing'):
        check_class_order(tmp_path)
    names = [f'n{i:08d}' for i in range(1000)]
    info = tmp_path / 'webvision/info'
    info.mkdir(parents=True)
    file = info / 'synsets.txt'
    file.write_text(''.join(f'{name} a name, another\n' for name in names))
    check_class_order(tmp_path)
    for name in names:
        (tmp_path / 'imagenet/train' / name).mkdir(parents=True)
    check_class_order(tmp_path)
    (tmp_path / 'imagenet/train/n00000007').rename(tmp_path / 'imagenet/train/n00001007')
    with pytest.raises(UsageError, match='class 7 is n00000007 in one and n00000008 in the other'):
        check_class_order(tmp_path)
    swapped = [*itertools.islice(names, 998), names[999], names[998]]
    file.write_text(''.join(f'{name} a name\n' for name in swapped))
    with pytest.raises(UsageError, match='number their classes differently'):
        check_class_order(tmp_path)
