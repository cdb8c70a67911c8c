import functools
import importlib
from pathlib import Path

import pytest
import torch
from mmengine.config import utils
from mmengine.registry import MODELS, init_default_scope

from mmnorm.cli.defaults import add_training_defaults
from mmnorm.experiments.catalogue import catalogue
from mmnorm.experiments.commands import Start, read_config


@pytest.fixture(scope='package', autouse=True)
def quick():
    """Models on the meta device, and no codebase's list of configs is parsed twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        # mmpretrain's ResNet reads the values of a linspace.
        patch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
        yield


@pytest.fixture(scope='session')
def built():
    """``built(id)``: config and network of a row as the Runner gets them; networks that are the same are built once."""
    models = {}

    @functools.cache
    def build(name):
        row = catalogue().run_of(catalogue()[name])
        source = row.start and read_config(catalogue().run_of(catalogue()[row.start]))
        cfg = read_config(row, start=Start(Path('pretrained.pth'), source) if source else None)
        if cfg.default_scope != 'mmengine':
            importlib.import_module(f'{cfg.default_scope}.models')
        add_training_defaults(cfg)
        for module in cfg.get('custom_imports', {}).get('imports', ()):
            importlib.import_module(module)
        init_default_scope(cfg.default_scope)
        key = repr(cfg.model)
        if key not in models:
            with torch.device('meta'):
                models[key] = MODELS.build(cfg.model)
        return cfg, models[key]

    return build
