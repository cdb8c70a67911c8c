// The passes over the data as nodes of autograd. What they hand to each other is described in mmnorm/ops/nodes.py.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

#include "optional.h"

namespace mmnorm {

// x to its mean and variance, and the three stand-ins whose gradients are those of y, scale and shift. x is contiguous or
// channels_last; negative_slope is that of affine_node.
std::vector<at::Tensor> moments_node(const at::Tensor& x, double negative_slope, pybind11::function again);

// act(scale * (x - mean) + shift + other). The gradient of x goes through the stand-ins to the node of the moments.
at::Tensor affine_node(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                       const OptionalTensor& other, const std::vector<at::Tensor>& stand_ins, double negative_slope,
                       pybind11::function again);

}  // namespace mmnorm
