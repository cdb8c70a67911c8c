"""Finding the configs of an installed codebase, whichever distribution it came from.

``_base_ = 'mmseg::...'`` makes mmengine look for the distribution that MODULE2PACKAGE names for the module
(``mmsegmentation`` for ``mmseg``). A fork that installs the same module under another distribution name is then "not
installed", and ``get_config`` would even install the upstream distribution over it.
"""

from importlib.metadata import PackageNotFoundError, distribution, packages_distributions


def resolve_config_packages() -> None:
    """Point mmengine's MODULE2PACKAGE at the distributions that are really installed; without mmengine do nothing."""
    try:
        from mmengine.config.utils import MODULE2PACKAGE
    except ImportError:
        return

    providers = None
    for module, package in MODULE2PACKAGE.items():
        try:
            distribution(package)
        except PackageNotFoundError:
            if providers is None:  # reads the metadata of every distribution, so only once and only if needed
                providers = packages_distributions()
            if module in providers:
                MODULE2PACKAGE[module] = providers[module][0]
