"""The names that configs use, in the registry of the OpenMMLab that is installed, if any."""

from . import layers

try:
    from mmengine.registry import MODELS as NORM_LAYERS
except ImportError:
    try:
        # OpenMMLab 1.x kept the norm layers in a registry of their own.
        from mmcv.cnn import NORM_LAYERS
    except ImportError:
        NORM_LAYERS = None

NAMES = {
    'SN': layers.SwitchableNorm2d,
    'SN1d': layers.SwitchableNorm1d,
    'SN2d': layers.SwitchableNorm2d,
    'SN3d': layers.SwitchableNorm3d,
    'EN': layers.ExemplarNorm2d,
    'EN1d': layers.ExemplarNorm1d,
    'EN2d': layers.ExemplarNorm2d,
    'EN3d': layers.ExemplarNorm3d,
    'ILM': layers.InstanceMetaNorm2d,
    'ILM1d': layers.InstanceMetaNorm1d,
    'ILM2d': layers.InstanceMetaNorm2d,
    'ILM3d': layers.InstanceMetaNorm3d,
}


def register_layers() -> None:
    """Register all layers in :data:`NORM_LAYERS`; without OpenMMLab there is nothing to do."""
    if NORM_LAYERS is None:
        return
    for name, layer in NAMES.items():
        NORM_LAYERS.register_module(name=name, module=layer)
