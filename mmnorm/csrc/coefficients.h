// The steps of the coefficients as nodes of autograd: a few loops each, where plain operators would be many. What they
// compute is described in mmnorm/ops/coefficients, which has them as plain operators under the same names, and what they
// are given there is what they are given here: tensors, numbers, and last what step.h says of `again`. `pool` has instead of
// `track` its fields, which are None where there is nothing to track.
//
// Means are in double, all else in the type that is computed in, that of the variances; what comes otherwise is converted.
// Moments are (N, C), those of a pool (K, N, C).
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace mmnorm {

// The sizes of a pool's moments.
struct Planes {
  int64_t normalizers, samples, channels;
  int64_t planes() const { return samples * channels; }
};

void define_mixing(pybind11::module_& module);
void define_nets(pybind11::module_& module);
void define_pools(pybind11::module_& module);
void define_sparsestmax(pybind11::module_& module);

}  // namespace mmnorm
