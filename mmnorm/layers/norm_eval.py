"""``norm_eval``, the switch of OpenMMLab's backbones, for the learned norms."""

from torch import nn

from .base import LearnedNorm


def apply_norm_eval(model: nn.Module) -> int:
    """Let the learned norms below every module with a truthy ``norm_eval`` stay in eval mode from now on.

    OpenMMLab's backbones put their norms into eval mode whenever they are put into training mode, but look for
    PyTorch's BatchNorm only. In eval mode BN's part of SN and EN uses the running statistics and leaves them alone; the
    other normalizers are computed from each sample as ever, and all parameters go on learning unless they are frozen.

    Args:
        model: Any module, wrapped for distributed training or not. One without the switch, or with all switches off,
            stays as it is.

    Returns:
        Number of norms that stay in eval mode.
    """
    norms = {
        norm
        for module in model.modules()
        if not isinstance(module, LearnedNorm) and getattr(module, 'norm_eval', False)
        for norm in module.modules()
        if isinstance(norm, LearnedNorm)
    }
    for norm in norms:
        norm.norm_eval = True
        norm.eval()
    return len(norms)
