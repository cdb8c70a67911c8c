"""The configs that come with mmnorm, by name: ``mmnorm::<path below configs>``, also as ``_base_`` of others."""

from difflib import get_close_matches
from pathlib import Path

PREFIX = 'mmnorm::'
_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Where they are: in the package that was built, beside it in a checkout."""
    built = _PACKAGE / '.mim/configs'
    return built.resolve() if built.is_dir() else _PACKAGE.parent / 'configs'


def config_names() -> list[str]:
    """All of them, but for those that are only there to be built upon."""
    folder = config_folder()
    paths = (path.relative_to(folder) for path in folder.rglob('*.py'))
    return sorted(f'{PREFIX}{path.as_posix()}' for path in paths if path.parts[0] != '_base_')


def config_path(name: str) -> Path:
    """The file of a config.

    Args:
        name: As it is named: 'mmnorm::deeplab_en_r50.py'.

    Raises:
        FileNotFoundError: If there is none. It names the nearest.
    """
    path = config_folder() / name.removeprefix(PREFIX)
    if not path.is_file():
        near = ', '.join(get_close_matches(name, config_names(), n=3)) or 'none'
        raise FileNotFoundError(f'there is no config {name}; nearest: {near}. All of them: mmnorm configs')
    return path


def let_mmengine_find_them() -> None:
    """Let ``_base_ = 'mmnorm::...'`` mean them, in every config that mmengine reads; without mmengine do nothing.

    By itself mmengine knows the packages of a fixed table, asks for a folder in the name, and builds what a base says
    in the scope that is called like its package: that of mmnorm, which has no models.
    """
    try:
        from mmengine.config import Config
        from mmengine.config.utils import MODULE2PACKAGE
    except ImportError:
        return
    # For mmengine.hub.get_config.
    MODULE2PACKAGE.setdefault('mmnorm', 'mmnorm')
    theirs = getattr(Config, '_get_cfg_path', None)
    if theirs is None or getattr(theirs, 'knows_mmnorm', False):
        return

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return str(config_path(cfg_path)), None
        return theirs(cfg_path, filename)

    get_cfg_path.knows_mmnorm = True  # type: ignore[attr-defined]
    Config._get_cfg_path = staticmethod(get_cfg_path)
