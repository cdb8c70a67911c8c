"""The optimizer wrapper constructor that knows the learned norms."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..layers.base import LearnedNorm
from ..layers.param_groups import check_factor, multipliers
from ..registry import register_in


@register_in(OPTIM_WRAPPER_CONSTRUCTORS)
class LearnedNormOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, to which SN, EN and ILM are norms.

    mmengine tells norms by PyTorch's classes. Here gamma and beta of the learned norms (``weight`` and ``bias``) are
    treated as those of BatchNorm: ``norm_decay_mult`` applies to both, else ``bias_decay_mult`` to beta, and
    ``bias_lr_mult`` to neither. Two more keys of ``paramwise_cfg`` are for what decides the ratios (SN's logits, the
    nets of EN and ILM):

    - ``ratio_lr_mult`` (float): Multiplies their learning rate. Default: as other parameters.
    - ``ratio_decay_mult`` (float): Multiplies their weight decay. Default: as other parameters. Decay draws SN's
      weights and EN's ratios towards uniform, ILM towards its base.

    ``custom_keys`` take precedence, and everything else works as in the default constructor. A model without learned
    norms gets what the default constructor gives it.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with the key ``optimizer``.
        paramwise_cfg: Options by parameter.

    Raises:
        ValueError: If a multiplier of the ratios is no number >= 0, or there is no rate or decay to multiply.

    Example:
        >>> optim_wrapper = dict(
        ...     type='OptimWrapper',
        ...     optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
        ...     constructor='LearnedNormOptimWrapperConstructor',
        ...     paramwise_cfg=dict(norm_decay_mult=0, ratio_lr_mult=0.1))
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        for key, base in {'ratio_lr_mult': 'lr', 'ratio_decay_mult': 'weight_decay'}.items():
            mult = self.paramwise_cfg.get(key)
            if mult is None:
                continue
            check_factor(f'paramwise_cfg.{key}', mult)
            if self.optimizer_cfg.get(base) is None:
                raise ValueError(f'paramwise_cfg.{key} has nothing to multiply: give the optimizer its {base}')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module=None) -> None:
        """Add all parameters of ``module``, and of the modules below, to ``params``.

        Args:
            params: Parameter groups; extended in place.
            module: The module whose parameters are added.
            prefix: Its path in the model.
            is_dcn_module: Whether it belongs to a deformable convolution.
        """
        known = len(params)
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if isinstance(module, LearnedNorm):
            names = {id(parameter): name for name, parameter in module.named_parameters(recurse=False)}
            for group in params[known:]:
                self._set_options(group, names[id(group['params'][0])], prefix)

    def _set_options(self, group: dict, name: str, prefix: str) -> None:
        """Correct what the default constructor, which takes the layer for no norm, gave to one parameter."""
        if any(key in f'{prefix}.{name}' for key in self.paramwise_cfg.get('custom_keys', {})):
            return
        group.pop('lr', None)
        group.pop('weight_decay', None)
        mults = multipliers(name, group['params'][0].ndim == 1, self.paramwise_cfg)
        for key, base, mult in zip(('lr', 'weight_decay'), (self.base_lr, self.base_wd), mults):
            if mult is not None and base is not None:
                group[key] = base * mult
