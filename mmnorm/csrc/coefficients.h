// The coefficients of the layers with written-out gradients: mmnorm/ops/closed_form, in a few loops instead of some
// thirty operators each way.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
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
  std::tuple<at::Tensor, at::Tensor> pool(const at::Tensor& mean, const at::Tensor& var) const;

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

// How scale and shift come from the moments, and what their gradients send back.
class Form {
 public:
  virtual ~Form() = default;

  // Scale and shift, then what the backward needs. Of `params`, in the order of the layer, those that there are not are
  // undefined. A pool with running statistics moves them.
  virtual Tensors forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                          const Tensors& params) const = 0;

  // The gradients of mean and var, then those of the parameters, undefined where the parameter is.
  virtual Tensors backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                           const at::Tensor& dshift) const = 0;
};

// params: weight, bias, mean_weight, var_weight.
class SwitchableForm : public Form {
 public:
  SwitchableForm(Pool pool, double eps) : pool_(std::move(pool)), eps_(eps) {}
  Tensors forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                  const Tensors& params) const override;
  Tensors backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                   const at::Tensor& dshift) const override;

 private:
  Pool pool_;
  double eps_;
};

// params: weight, bias, conv_weight, fc1_weight, fc1_bias, fc2_weight, fc2_bias.
class ExemplarForm : public Form {
 public:
  ExemplarForm(Pool pool, double eps, bool pairwise, bool tanh)
      : pool_(std::move(pool)), eps_(eps), pairwise_(pairwise), tanh_(tanh) {}
  Tensors forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                  const Tensors& params) const override;
  Tensors backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                   const at::Tensor& dshift) const override;

 private:
  Pool pool_;
  double eps_;
  bool pairwise_, tanh_;
};

// params: weight, bias, encoder_weight, mean_decoder_weight, var_decoder_weight. The pool is the base and the key groups.
class InstanceMetaForm : public Form {
 public:
  InstanceMetaForm(Pool pool, double eps, std::string mean_activation, std::string var_activation)
      : pool_(std::move(pool)),
        eps_(eps),
        mean_activation_(std::move(mean_activation)),
        var_activation_(std::move(var_activation)) {}
  Tensors forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                  const Tensors& params) const override;
  Tensors backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                   const at::Tensor& dshift) const override;

 private:
  Pool pool_;
  double eps_;
  std::string mean_activation_, var_activation_;
};

}  // namespace mmnorm
