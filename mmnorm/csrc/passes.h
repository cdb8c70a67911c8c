// The four passes over the data on the CPU. Each tensor x is (N, C, *), contiguous or channels_last; tensors of planes
// are (N, C). What they compute is described in mmnorm/ops/reference.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>

namespace mmnorm {

// Mean of each plane, in double, and its biased variance, in the type that is computed in.
std::tuple<at::Tensor, at::Tensor> moments(const at::Tensor& x);

// scale * (x - mean) + shift, with mean in double; other types are converted.
at::Tensor affine(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift);

// Sums of dy and of dy * (x - mean).
std::tuple<at::Tensor, at::Tensor> plane_sums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean);

// scale * dy + slope * (x - mean) + offset
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& slope, const at::Tensor& offset);

// The vector instructions that are used: "avx512", "avx2" or "default".
std::string instructions();

}  // namespace mmnorm
