"""IN as the papers mean it: with gamma and beta, which PyTorch's has not unless they are asked for."""

from collections.abc import Mapping


def with_affine(norm_cfg: Mapping | None) -> dict:
    """A copy of ``norm_cfg``, IN if None, in which IN has gamma and beta unless it says ``affine=False``."""
    found = dict(norm_cfg or dict(type='IN'))
    if found['type'] in ('IN', 'IN1d', 'IN2d', 'IN3d'):
        found.setdefault('affine', True)
    return found
