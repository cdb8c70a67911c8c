// The coefficients of the layers with written-out gradients: mmnorm/ops/closed_form, in a few loops instead of some
// thirty operators each way.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Optional.h>

#include <string>
#include <tuple>
#include <vector>

namespace mmnorm {

using Tensors = std::vector<at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

enum class Kind { Instance, Group, Batch, Running };

// A pool of normalizers over the moments, as the loops see it. Means and variances are (N, C), (N, G) or (C,).
template <typename T>
struct Pooled {
  int64_t samples, channels, size;
  const T* center;
  std::vector<Kind> kinds;
  std::vector<int64_t> groups;
  std::vector<const double*> mean;
  std::vector<const T*> var;
};

// The running statistics of BN, to be moved by a batch of `positions` values a plane.
struct RunningStats {
  at::Tensor mean, var, num_batches;
  std::optional<double> momentum;
  int64_t positions;
};

// The normalizers of a pool.
class Pool {
 public:
  // names: 'IN', 'LN', 'GN', 'BN', or 'running', BN with `running_mean` and `running_var`, (C,).
  // track: running statistics that a batch enters, if any.
  Pool(const std::vector<std::string>& names, const std::vector<int64_t>& groups, const OptionalTensor& running_mean,
       const OptionalTensor& running_var, std::optional<RunningStats> track);

  // Pools moments (N, C), and moves the running statistics. Returns the pooled means, in double, and variances, all
  // normalizers' one after another.
  std::tuple<at::Tensor, at::Tensor> pool(const at::Tensor& mean, const at::Tensor& var);

  template <typename T>
  Pooled<T> view(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                 const at::Tensor& pooled_mean, const at::Tensor& pooled_var) const;

  int64_t size() const { return static_cast<int64_t>(kinds_.size()); }

 private:
  // Pooled values that a normalizer has of its own.
  int64_t count(int64_t k, int64_t samples, int64_t channels) const;

  std::vector<Kind> kinds_;
  std::vector<int64_t> groups_;
  OptionalTensor running_mean_, running_var_;
  std::optional<RunningStats> track_;
};

// Each forward returns scale and shift, then what its backward needs; each backward the gradients of mean and var, then
// those of the parameters, undefined where the parameter is none.

Tensors switchable_forward(Pool& pool, double eps, const at::Tensor& mean, const at::Tensor& var,
                           const at::Tensor& center, const OptionalTensor& weight, const OptionalTensor& bias,
                           const at::Tensor& mean_weight, const at::Tensor& var_weight);
Tensors switchable_backward(const Pool& pool, const Tensors& saved, const OptionalTensor& weight,
                            const OptionalTensor& bias, const at::Tensor& dscale, const at::Tensor& dshift);

Tensors exemplar_forward(Pool& pool, double eps, bool pairwise, bool tanh, const at::Tensor& mean,
                         const at::Tensor& var, const at::Tensor& center, const OptionalTensor& weight,
                         const OptionalTensor& bias, const OptionalTensor& conv_weight, const at::Tensor& fc1_weight,
                         const at::Tensor& fc1_bias, const at::Tensor& fc2_weight, const at::Tensor& fc2_bias);
Tensors exemplar_backward(const Pool& pool, double eps, bool pairwise, bool tanh, const Tensors& saved,
                          const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& conv_weight,
                          const at::Tensor& fc1_weight, const at::Tensor& fc2_weight, const at::Tensor& dscale,
                          const at::Tensor& dshift);

// The pool is the base and the key groups.
Tensors instance_meta_forward(Pool& pool, double eps, const std::string& mean_activation,
                              const std::string& var_activation, const at::Tensor& mean, const at::Tensor& var,
                              const at::Tensor& center, const OptionalTensor& weight, const OptionalTensor& bias,
                              const at::Tensor& encoder, const at::Tensor& mean_decoder,
                              const at::Tensor& var_decoder);
Tensors instance_meta_backward(const Pool& pool, double eps, const std::string& mean_activation,
                               const std::string& var_activation, const Tensors& saved, const OptionalTensor& weight,
                               const OptionalTensor& bias, const at::Tensor& encoder, const at::Tensor& mean_decoder,
                               const at::Tensor& var_decoder, const at::Tensor& dscale, const at::Tensor& dshift);

}  // namespace mmnorm
