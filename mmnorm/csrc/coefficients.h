// The coefficients of the layers as nodes of autograd: a few loops each, where plain operators would be many. What they
// compute is described in mmnorm/ops/coefficients, which has them as plain operators under the same names.
//
// Moments come as a passes' own: mean in double, var in the type that is computed in, both (N, C). The pool's moments are
// (K, N, C) in that type. The last argument of each is described in again.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <tuple>
#include <vector>

#include "optional.h"

namespace mmnorm {

// The sizes of the pool's moments.
struct Planes {
  int64_t normalizers, samples, channels;
  int64_t planes() const { return samples * channels; }
};

// The running statistics of BN, to be moved by a batch of `positions` values a plane.
struct RunningStats {
  at::Tensor mean, var, num_batches;
  Optional<double> momentum;
  int64_t positions;
};

using Pair = std::tuple<at::Tensor, at::Tensor>;

// batch_mean, batch_var: moments that BN takes instead of the batch's, (C,). track: what the batch's move.
Pair pool(const at::Tensor& mean, const at::Tensor& var, const OptionalTensor& batch_mean,
          const OptionalTensor& batch_var, std::vector<std::string> normalizers, int64_t num_groups,
          const Optional<RunningStats>& track, pybind11::function again);

Pair group_moments(const at::Tensor& mean, const at::Tensor& var, int64_t groups, pybind11::function again);

Pair mix_statistics(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& ratios,
                    const OptionalTensor& weight, const OptionalTensor& bias, double eps, pybind11::function again);

Pair mix_outputs(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& ratios,
                 const OptionalTensor& weight, const OptionalTensor& bias, double eps, pybind11::function again);

at::Tensor correlate(const at::Tensor& deviation, const at::Tensor& variance, const OptionalTensor& conv_weight,
                     double eps, pybind11::function again);

Pair rescale(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& omega, const at::Tensor& beta,
             const OptionalTensor& weight, const OptionalTensor& bias, double eps, pybind11::function again);

}  // namespace mmnorm
