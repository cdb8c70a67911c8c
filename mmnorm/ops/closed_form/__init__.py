"""Coefficients of the layers with their gradients written out.

On small maps the (N, C) operators of the coefficients decide what a layer costs, not the passes over the data, and
autograd doubles their number. A closed form is an object made for one forward call, with

* ``forward(mean, var, center, *params) -> scale, shift, saved``, scale and shift (N, C), saved a tuple of tensors, and
* ``backward(saved, params, dscale, dshift) -> dmean, dvar, dparams``, the gradients in the order of the arguments.

``center`` is the mean rounded to the type that is computed in, ``shift`` the value there: y does not depend on the
center, so it is a constant, and the mean counts only as far as it is pooled.

What the layers themselves define, with autograd's gradients, is what these are tested against.
"""

from .exemplar import ExemplarForm
from .instance_meta import InstanceMetaForm
from .pool import PoolForm
from .switchable import SwitchableForm

__all__ = ['ExemplarForm', 'InstanceMetaForm', 'PoolForm', 'SwitchableForm', 'supports']


def supports(form, samples: int, channels: int, *params) -> bool:
    """Whether ``form.forward`` can do what the form says. Here it always can; see :mod:`..triton_coefficients`."""
    return True
