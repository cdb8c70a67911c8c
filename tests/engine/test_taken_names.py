"""Names that somebody else has registered before: they stay theirs, and a config gets ours all the same."""

import subprocess
import sys
import textwrap

import pytest
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS, DefaultScope

import mmnorm
from mmnorm.registry import NAMES


def python(code, *arguments):
    """Run code in a process of its own; what it prints."""
    command = [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout.split()


TAKEN = """
import sys, warnings
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

class Theirs(nn.BatchNorm2d):
    pass

class TheirHook(Hook):
    pass

for name in ('SN', 'EN', 'ILM3d', 'NormConverted'):
    MODELS.register_module(name=name, module=Theirs)
for name in ('NormEvalHook', 'BatchAverageHook'):
    HOOKS.register_module(name=name, module=TheirHook)
OPTIM_WRAPPER_CONSTRUCTORS.register_module(name='LearnedNormOptimWrapperConstructor', module=TheirHook)
register_backend('atomic', LocalBackend)
names = ['SN', 'EN', 'ILM3d', 'NormConverted', 'NormEvalHook', 'BatchAverageHook']
names += ['LearnedNormOptimWrapperConstructor', 'atomic']

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import mmnorm
messages = [str(w.message) for w in caught if 'mmnorm' in str(w.message)]
"""


def test_import_leaves_them_and_says_so_once():
    code = """
    assert len(messages) == 1, messages
    owners = dict.fromkeys(names[:4], '__main__.Theirs') | dict.fromkeys(names[4:], '__main__.TheirHook')
    owners['atomic'] = 'mmengine.fileio.backends.local_backend.LocalBackend'
    for name, owner in owners.items():
        assert f'{name} ({owner})' in messages[0], (name, messages)
    assert 'ILM2d' not in messages[0]
    assert "type='mmnorm.BatchAverageHook'" in messages[0]

    assert MODELS.get('EN') is MODELS.get('SN') is MODELS.get('NormConverted') is Theirs
    assert HOOKS.get('NormEvalHook') is TheirHook
    assert MODELS.get('EN2d') is mmnorm.ExemplarNorm2d
    from mmnorm.engine.norm_eval_hook import NormEvalHook
    assert HOOKS.get('mmnorm.NormEvalHook') is NormEvalHook

    # Whatever is said without a config means ours.
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    for norm in ('EN', dict(type='mmnorm.SN')):
        types = None if norm == 'EN' else 'EN'
        mmnorm.convert_norm(model, norm, types=types)
        expected = mmnorm.ExemplarNorm2d if norm == 'EN' else mmnorm.SwitchableNorm2d
        assert type(model[0]) is expected

    # What the tools write into a config does, too.
    from mmengine.config import Config
    from mmnorm.convert.configs import parse_norm, set_norm
    from mmnorm.cli.defaults import add_training_defaults
    backbone = dict(type='mmpretrain.ResNet', depth=18)
    cfg = Config(dict(
        model=dict(type='mmpretrain.ImageClassifier', backbone=backbone),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook'))))
    for _ in range(2):
        set_norm(cfg, parse_norm('EN'))
        add_training_defaults(cfg)
    cfg = Config.fromstring(cfg.pretty_text, '.py')
    assert cfg.model.type == 'mmnorm.NormConverted'
    assert cfg.model.model_type == 'mmpretrain.ImageClassifier'
    assert [hook.type for hook in cfg.custom_hooks] == ['mmnorm.NormEvalHook', 'ExactResumeHook']
    assert cfg.optim_wrapper.constructor == 'mmnorm.LearnedNormOptimWrapperConstructor'
    assert cfg.default_hooks.checkpoint.backend_args == dict(backend='mmnorm.atomic')
    network = MODELS.build(cfg.model)
    assert type(network.backbone.bn1) is mmnorm.ExemplarNorm2d
    from mmengine.fileio import get_file_backend
    from mmnorm.engine.atomic_files import AtomicBackend
    backend = get_file_backend('x.pth', backend_args=dict(cfg.default_hooks.checkpoint.backend_args))
    assert type(backend) is AtomicBackend
    """
    python(TAKEN + textwrap.dedent(code))


CONFIGS = {
    'mmpretrain': 'model = dict(type="ResNet", depth=18, norm_cfg=dict(type="{}", eps=1e-3))',
    'mmseg': 'model = dict(type="ResNetV1c", depth=18, norm_cfg=dict(type="{}", eps=1e-3))',
    'mmdet': 'model = dict(type="ResNet", depth=18, norm_cfg=dict(type="{}", eps=1e-3))',
}


def test_configs_get_ours_in_every_codebase(tmp_path):
    """By the scope and by the path of the class, from files of all three kinds, and in their own scope."""
    for scope, text in CONFIGS.items():
        for norm in ('mmnorm.EN', 'mmnorm.ExemplarNorm2d'):
            source = tmp_path / f'{scope}_{norm.split(".")[1]}.py'
            source.write_text(f'default_scope = "{scope}"\n' + text.format(norm))
    code = """
    import torch
    from pathlib import Path
    from mmcv.cnn import build_norm_layer
    from mmengine.config import Config
    from mmengine.registry import DefaultScope, init_default_scope

    for path in sorted(Path(sys.argv[1]).glob('*.py')):
        files = [path]
        for suffix in ('.yaml', '.json'):
            Config.fromfile(path).dump(path.with_suffix(suffix))
            files.append(path.with_suffix(suffix))
        for file in files:
            cfg = Config.fromfile(file)
            init_default_scope(cfg.default_scope)
            network = MODELS.build(cfg.model)
            norms = dict(network.named_modules())
            last = norms['layer1.0.bn2']
            assert type(last) is mmnorm.ExemplarNorm2d, (file, last)
            assert last.eps == 1e-3
            assert not any(isinstance(m, nn.BatchNorm2d) for m in norms.values()), file
            outputs = network(torch.randn(1, 3, 32, 32))
            outputs[-1].sum().backward()
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            theirs = build_norm_layer(dict(type='EN'), 8)[1]
            assert type(theirs) is Theirs
            abbr, layer = build_norm_layer(dict(type='mmnorm.ILM'), 8, postfix=1)
            assert (abbr, type(layer)) == ('gn1', mmnorm.InstanceMetaNorm2d)
            abbr, layer = build_norm_layer(dict(type='mmnorm.SN', num_groups=4), 8, postfix=2)
            assert (abbr, type(layer)) == ('bn2', mmnorm.SwitchableNorm2d)
    print('done')
    """
    assert python(TAKEN + textwrap.dedent(code), tmp_path)[-1] == 'done'


@pytest.mark.parametrize('scope', ['mmengine', 'mmseg', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize('name', NAMES)
def test_the_scope_is_there_where_names_are_free_too(scope, name):
    with DefaultScope.overwrite_default_scope(scope):
        _, layer = build_norm_layer(dict(type=f'mmnorm.{name}'), 8)
        assert type(layer) is NAMES[name]
        # mmpretrain has a GRN of its own.
        if (scope, name) != ('mmpretrain', 'GRN'):
            assert type(build_norm_layer(dict(type=name), 8)[1]) is NAMES[name]


def test_class_in_a_config():
    """As python-style configs give it, and as such a config is dumped."""
    layer = MODELS.build(dict(type=mmnorm.ExemplarNorm2d, num_features=8))
    assert type(layer) is mmnorm.ExemplarNorm2d
    dumped = f'{mmnorm.ExemplarNorm2d.__module__}.ExemplarNorm2d'
    for scope in ('mmseg', 'mmdet', 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope):
            assert type(build_norm_layer(dict(type=dumped), 8)[1]) is mmnorm.ExemplarNorm2d


def test_importing_again_changes_nothing():
    code = """
    import importlib, warnings
    import mmengine.hooks
    from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
    import mmnorm
    from mmnorm.registry import name_in_config

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        importlib.reload(mmnorm)
        for module in ('norm_eval_hook', 'norm_ratio_hook', 'optim_constructor', 'atomic_files'):
            # Another class of the same path takes the place of the first.
            importlib.reload(importlib.import_module(f'mmnorm.engine.{module}'))
    assert MODELS.get('EN') is mmnorm.ExemplarNorm2d
    hook = importlib.import_module('mmnorm.engine.norm_eval_hook').NormEvalHook
    assert HOOKS.get('NormEvalHook') is HOOKS.get('mmnorm.NormEvalHook') is hook
    assert name_in_config(MODELS, 'NormConverted') == 'NormConverted'
    assert name_in_config(HOOKS, 'NormRatioHook') == 'NormRatioHook'
    name = 'LearnedNormOptimWrapperConstructor'
    assert name_in_config(OPTIM_WRAPPER_CONSTRUCTORS, name) == name
    """
    python(code)


def test_networks_of_the_papers():
    code = """
    import warnings
    from mmpretrain.registry import MODELS

    class Theirs:
        pass

    MODELS.register_module(name='InceptionV2', module=Theirs)
    import mmnorm
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        import mmnorm.models
    messages = [str(w.message) for w in caught if 'mmnorm' in str(w.message)]
    assert len(messages) == 1 and 'InceptionV2 (__main__.Theirs)' in messages[0], messages
    assert "type='mmnorm.InceptionV2'" in messages[0] and 'ThinResNetCIFAR' not in messages[0]
    assert MODELS.get('InceptionV2') is Theirs
    assert MODELS.get('mmnorm.InceptionV2') is mmnorm.models.InceptionV2
    # The scope is one for all codebases, so that a norm is found in it as well.
    assert MODELS.get('mmnorm.EN') is mmnorm.ExemplarNorm2d
    """
    python(code)


OLD_MMCV = '''
import sys, types, warnings

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmengine', 'mmcv'):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Hide())

class Registry:
    """What mmcv 1.x has, as far as names go."""

    def __init__(self, name, build_func=None, parent=None, scope='mmcv'):
        self.name, self.parent, self.scope, self.module_dict, self.children = name, parent, scope, {}, {}
        if parent is not None:
            parent.children[scope] = self

    def get(self, key):
        scope, _, name = key.rpartition('.')
        if scope in ('', self.scope):
            return self.module_dict.get(name)
        return self.children[scope].get(name) if scope in self.children else None

    def __len__(self):
        return len(self.module_dict)

    def register_module(self, name=None, force=False, module=None):
        if not force and name in self.module_dict:
            raise KeyError(name)
        self.module_dict[name] = module
        return module

norm_layers = Registry('norm layer')
mmcv, cnn = types.ModuleType('mmcv'), types.ModuleType('mmcv.cnn')
cnn.NORM_LAYERS = norm_layers
sys.modules.update({'mmcv': mmcv, 'mmcv.cnn': cnn})
'''


@pytest.mark.parametrize('taken', [False, True])
def test_openmmlab_1(taken):
    code = f"""
    if {taken}:
        norm_layers.register_module(name='EN', module=dict)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        import mmnorm
    messages = [str(w.message) for w in caught if 'mmnorm' in str(w.message)]
    assert mmnorm.NORM_LAYERS is norm_layers
    assert len(messages) == {taken}, messages
    if {taken}:
        assert 'EN (builtins.dict)' in messages[0]
        assert norm_layers.get('EN') is dict
    else:
        assert norm_layers.get('EN') is mmnorm.ExemplarNorm2d
    assert norm_layers.get('mmnorm.EN') is mmnorm.ExemplarNorm2d
    assert norm_layers.get('SN') is mmnorm.SwitchableNorm2d
    """
    python(OLD_MMCV + textwrap.dedent(code))
