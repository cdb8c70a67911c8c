import importlib.util

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def no_operators(monkeypatch):
    """An mmcv that was built without its compiled operators."""
    find = importlib.util.find_spec

    def find_spec(name, package=None):
        return None if name == 'mmcv._ext' else find(name, package)

    monkeypatch.setattr(importlib.util, 'find_spec', find_spec)
