"""What a config may name besides the layers: hooks, a sampler, the optimizer wrapper constructor, the file backend."""


def register_engine() -> None:
    """Register them with mmengine; without it there is nothing to do."""
    try:
        import mmengine  # noqa: F401
    except ImportError:
        return
    from . import (  # noqa: F401
        atomic_files,
        batch_average_hook,
        class_balanced_sampler,
        exact_resume,
        norm_eval_hook,
        norm_ratio_hook,
        optim_constructor,
    )
