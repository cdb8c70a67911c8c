// The passes over the data as nodes of autograd. What they hand to each other is described in mmnorm/ops/normalize.py.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

namespace mmnorm {

// x to its mean and variance, and the two stand-ins whose gradients are dy and scale. x is contiguous or channels_last.
std::vector<at::Tensor> moments_node(const at::Tensor& x, pybind11::function again);

// scale * (x - mean) + shift. The gradient of x goes through the stand-ins to the node of the moments.
at::Tensor affine_node(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                       const at::Tensor& dy_stand_in, const at::Tensor& scale_stand_in, pybind11::function again);

}  // namespace mmnorm
