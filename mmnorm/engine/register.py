"""What a config may name besides the layers: hooks, metrics, a sampler, an optimizer constructor, the file backend."""

import sys
from importlib import import_module
from typing import Any

from ..registry import register_in

# By the registry that has them, and the module that is imported once one is built.
_NAMES = {
    'HOOKS': {
        'BatchAverageHook': '.batch_average_hook',
        'ChannelsLastHook': '.channels_last_hook',
        'DeriveHook': '.derive_hook',
        'ExactResumeHook': '.exact_resume',
        'FuseHook': '.fuse_hook',
        'ImageAreasHook': '.image_areas_hook',
        'NormEvalHook': '.norm_eval_hook',
        'NormRatioHook': '.norm_ratio_hook',
        'PictureHook': '.picture_hook',
        'RenormHook': '.renorm_hook',
        'SparsityHook': '.sparsity_hook',
    },
    'METRICS': {'ImageSimilarity': '.image_similarity', 'LossMetric': '.loss_metric'},
    'DATA_SAMPLERS': {'ClassBalancedSampler': '.class_balanced_sampler'},
    'OPTIM_WRAPPER_CONSTRUCTORS': {
        'LearnedNormOptimWrapperConstructor': '.optim_constructor',
        'PartsOptimWrapperConstructor': '.parts_optim_constructor',
    },
}


def register_engine() -> None:
    """Register them with mmengine; without it there is nothing to do.

    They stand on mmengine's hooks and optimizers, which take seconds to import. Unless these are there already, what is
    registered under a name is a function that imports the class, which then takes its place, and makes an object of it.
    """
    try:
        from mmengine import registry as registries
    except ImportError:
        return
    import_module('.atomic_files', __package__)
    for registry_name, modules in _NAMES.items():
        registry = getattr(registries, registry_name)
        for name, module in modules.items():
            if 'mmengine.hooks' in sys.modules:
                import_module(module, __package__)
            else:
                register_in(registry, name)(_builder(name, f'{__package__}{module}'))


def _builder(name: str, module: str) -> Any:
    def build(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    # As the class has them, which may therefore take the name over.
    build.__name__ = build.__qualname__ = name
    build.__module__ = module
    return build
