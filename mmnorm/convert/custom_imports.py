"""Configs that import this package by themselves."""

from typing import Any


def import_mmnorm(cfg: Any) -> None:
    """Add mmnorm to what a config imports, in place, so that any tool of OpenMMLab can run it.

    Args:
        cfg: A mmengine Config.
    """
    custom = dict(cfg.get('custom_imports') or {})
    names = custom.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if not any(name == 'mmnorm' or name.startswith('mmnorm.') for name in names):
        cfg.custom_imports = {**custom, 'imports': [*names, 'mmnorm']}
