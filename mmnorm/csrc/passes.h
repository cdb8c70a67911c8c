// The four passes over the data on the CPU (core.h), for tensors of PyTorch. Each tensor x is (N, C, *), contiguous or
// channels_last; tensors of planes are (N, C). What they compute is described in mmnorm/ops/passes/reference.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <tuple>

#include "core.h"

namespace mmnorm {

// Mean of each plane, in double, and its biased variance, in the type that is computed in.
std::tuple<at::Tensor, at::Tensor> moments(const at::Tensor& x);

// act(scale * (x - mean) + shift), with mean in double; other types are converted.
at::Tensor affine(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                  double negative_slope);

// act(scale * (x - mean) + shift + other), and where `with_bits` what plane_sums_add is to be given, else nothing.
std::tuple<at::Tensor, at::Tensor> affine_add(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                                              const at::Tensor& shift, const at::Tensor& other, double negative_slope,
                                              bool with_bits);

// Sums of g and of g * (x - mean), with g the gradient of the activation's input; dy is that of its output.
std::tuple<at::Tensor, at::Tensor> plane_sums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                                              const at::Tensor& scale, const at::Tensor& shift, double negative_slope);

// The same after affine_add, and g.
std::tuple<at::Tensor, at::Tensor, at::Tensor> plane_sums_add(const at::Tensor& dy, const at::Tensor& x,
                                                              const at::Tensor& mean, const at::Tensor& bits,
                                                              double negative_slope);

// What the activation's gradient multiplies by, from those bits: negative_slope or 1, laid out as x.
at::Tensor slopes_of(const at::Tensor& bits, const at::Tensor& x, double negative_slope);

// What the affine form sends to the mean, given the sums of g: -scale * total, in double, as the mean is.
at::Tensor mean_gradient(const at::Tensor& scale, const at::Tensor& total);

// scale * g + slope_factor * slope * (x - mean) + offset_factor * offset
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& shift, const at::Tensor& slope, const at::Tensor& offset,
                          double slope_factor, double offset_factor, double negative_slope);

// The vector instructions that are used: "avx512", "avx2" or "default".
std::string instructions();

}  // namespace mmnorm
