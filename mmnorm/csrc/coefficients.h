// The steps of the coefficients as nodes of autograd: a few loops each, where plain operators would be many. What they
// compute is described in mmnorm/ops/coefficients, which has them as plain operators under the same names.
//
// Means are in double, all else in the type that is computed in, that of the variances; what comes otherwise is converted.
// Moments are (N, C), those of a pool (K, N, C). The last argument of each is described in again.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <vector>

#include "optional.h"

namespace mmnorm {

// The sizes of a pool's moments.
struct Planes {
  int64_t normalizers, samples, channels;
  int64_t planes() const { return samples * channels; }
};

// batch_mean, batch_var: moments that BN takes instead of the batch's, (C,). running_mean, running_var, num_batches: what
// the batch's move, if any, by `momentum` or to their cumulative average; a plane has `positions` values.
std::vector<at::Tensor> pool(const at::Tensor& mean, const at::Tensor& var, const OptionalTensor& batch_mean,
                             const OptionalTensor& batch_var, const std::vector<std::string>& normalizers,
                             int64_t num_groups, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                             const OptionalTensor& num_batches, Optional<double> momentum, int64_t positions,
                             pybind11::function again);

std::vector<at::Tensor> group_moments(const at::Tensor& mean, const at::Tensor& var, int64_t groups,
                                      pybind11::function again);

std::vector<at::Tensor> mix_statistics(const at::Tensor& deviation, const at::Tensor& variance,
                                       const at::Tensor& ratios, const OptionalTensor& weight,
                                       const OptionalTensor& bias, double eps, pybind11::function again);

std::vector<at::Tensor> mix_outputs(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& ratios,
                                    const OptionalTensor& weight, const OptionalTensor& bias, double eps,
                                    pybind11::function again);

at::Tensor correlate(const at::Tensor& deviation, const at::Tensor& variance, const OptionalTensor& conv_weight,
                     double eps, pybind11::function again);

std::vector<at::Tensor> rescale(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& omega,
                                const at::Tensor& beta, const OptionalTensor& weight, const OptionalTensor& bias,
                                double eps, pybind11::function again);

at::Tensor perceptron(const at::Tensor& features, const at::Tensor& weight1, const OptionalTensor& bias1,
                      const at::Tensor& weight2, const OptionalTensor& bias2, const std::string& hidden,
                      const std::string& output, pybind11::function again);

// z: (rows, K); see mmnorm/layers/sparse_switchable_norm.py.
at::Tensor sparsestmax(const at::Tensor& z, const at::Tensor& radius, pybind11::function again);

}  // namespace mmnorm
