// A layer as one node of autograd, from the input to the output: _Whole of mmnorm/ops/fused.py without Python.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <vector>

#include "coefficients.h"

namespace mmnorm {

// Args:
//   x: (N, C, *), contiguous or channels_last.
//   form: How the coefficients come from the moments.
//   params: The parameters of the form, in its order.
//   replay: Called as replay(x, params, needs_grad, dy) where gradients are to be differentiated again; needs_grad says
//     which of x and params need one. Returns theirs.
at::Tensor normalize(const at::Tensor& x, std::shared_ptr<Form> form, const std::vector<OptionalTensor>& params,
                     pybind11::function replay);

}  // namespace mmnorm
