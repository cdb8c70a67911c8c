#include "coefficient_step.h"

#include <algorithm>
#include <cmath>
#include <utility>

#define MMNORM_KERNELS "pool_kernels.h"
#include "instructions.h"

namespace mmnorm {
namespace {

namespace py = pybind11;

// Groups of channels that `normalizer` pools; 0 if it pools something else.
int64_t groups_of(const std::string& normalizer, int64_t num_groups) {
  return normalizer == "LN" ? 1 : normalizer == "GN" ? num_groups : 0;
}

// What running statistics there are, and how a batch moves them.
struct Tracking {
  at::Tensor mean, var, num_batches;
  Optional<double> momentum;
  int64_t positions;

  void check(int64_t channels) const {
    const auto fits = [&](const at::Tensor& t) {
      return is_dense_cpu(t) && !t.is_neg() && at::isFloatingType(t.scalar_type()) && t.dim() == 1 &&
             t.size(0) == channels && t.scalar_type() == mean.scalar_type() && (channels == 1 || t.stride(0) != 0);
    };
    MMNORM_EXPECT(fits(mean), "running_mean", mean, "floating-point numbers on the CPU, of shape [", channels, "]");
    MMNORM_EXPECT(fits(var) && !var.is_alias_of(mean), "running_var", var, "numbers of their own, like the running mean (",
                  describe(mean), ")");
    MMNORM_EXPECT(is_dense_cpu(num_batches) && num_batches.scalar_type() == at::kLong && num_batches.dim() == 0,
                  "num_batches", num_batches, "one number of int64 on the CPU");
    TORCH_CHECK(!momentum.has_value() || (*momentum >= 0 && *momentum <= 1),
                "mmnorm: momentum: expected none or a number from 0 to 1, got ", momentum.has_value() ? *momentum : 0.0);
    TORCH_CHECK(positions > 0, "mmnorm: positions: expected a positive number, got ", positions);
  }

  // As mmnorm.ops does: the variance is tracked as the unbiased one, with that of a single value being 0.
  void update(const std::vector<double>& batch_mean, const std::vector<double>& batch_var, int64_t samples) {
    const auto values = static_cast<double>(samples * positions);
    int64_t& batches = *num_batches.data_ptr<int64_t>();
    ++batches;
    const double factor = momentum.has_value() ? *momentum : 1.0 / static_cast<double>(batches);
    const double unbias = values / std::max(values - 1, 1.0);
    const at::Tensor dense_mean = mean.contiguous(), dense_var = var.contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, mean.scalar_type(), "mmnorm::track", [&] {
      MMNORM_CALL(track, dense_mean.data_ptr<scalar_t>(), dense_var.data_ptr<scalar_t>(), batch_mean.data(),
                  batch_var.data(), factor, unbias, mean.numel());
    });
    for (const auto& [buffer, dense] : {std::pair(mean, dense_mean), std::pair(var, dense_var)}) {
      if (!dense.is_same(buffer)) {
        buffer.copy_(dense);
      }
    }
    // Whoever has saved them notices.
    for (const auto& buffer : {mean, var, num_batches}) {
      buffer.unsafeGetTensorImpl()->bump_version();
    }
  }
};

class PoolStep : public Step {
 public:
  PoolStep(std::vector<std::string> normalizers, int64_t num_groups, Tracking* tracking, py::function again)
      : Step(std::move(again)), normalizers_(std::move(normalizers)), num_groups_(num_groups), tracking_(tracking) {}

  void check(const variable_list& inputs) const override {
    const at::Tensor &mean = inputs[0], &var = inputs[1];
    check_moments(var, "var", 2);
    check_floating(mean, "mean", var.sizes());
    TORCH_CHECK(inputs[2].defined() == inputs[3].defined(), "mmnorm: batch_mean and batch_var: expected both or none");
    check_optional(inputs[2], "batch_mean", {var.size(1)});
    check_optional(inputs[3], "batch_var", {var.size(1)});
    TORCH_CHECK(!normalizers_.empty(), "mmnorm: normalizers: expected at least one");
    TORCH_CHECK(std::count(normalizers_.begin(), normalizers_.end(), "BN") <= 1, "mmnorm: normalizers: 'BN' is there twice");
    for (const auto& name : normalizers_) {
      TORCH_CHECK(name == "IN" || name == "LN" || name == "GN" || name == "BN",
                  "mmnorm: normalizers: expected 'IN', 'LN', 'GN' or 'BN', got '", name, "'");
      if (name == "GN") {
        check_groups(num_groups_, var.size(1));
      }
    }
    if (tracking_ != nullptr) {
      tracking_->check(var.size(1));
    }
  }

  // inputs: mean, var, batch_mean, batch_var
  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const at::Tensor mean = as(inputs[0], at::kDouble), var = as(inputs[1], inputs[1].scalar_type());
    const int64_t samples = mean.size(0), channels = mean.size(1), planes = samples * channels;
    const auto size = static_cast<int64_t>(normalizers_.size());
    const at::Tensor deviation = new_numbers({size, samples, channels}, var.scalar_type()), variance = new_like(deviation);
    MMNORM_DISPATCH(var.scalar_type(), "mmnorm::pool", {
      const double* m = mean.const_data_ptr<double>();
      const T* v = var.const_data_ptr<T>();
      T *d = deviation.data_ptr<T>(), *w = variance.data_ptr<T>();
      for (const auto& name : normalizers_) {
        if (name == "IN") {
          std::fill(d, d + planes, T(0));
          std::copy(v, v + planes, w);
        } else if (name == "BN") {
          std::vector<double> mu(channels), pooled(channels);
          if (inputs[2].defined()) {
            std::copy_n(as(inputs[2], at::kDouble).const_data_ptr<double>(), channels, mu.data());
            std::copy_n(as(inputs[3], at::kDouble).const_data_ptr<double>(), channels, pooled.data());
          } else {
            MMNORM_CALL(batch_moments, m, v, mu.data(), pooled.data(), samples, channels);
          }
          if (tracking_ != nullptr) {
            tracking_->update(mu, pooled, samples);
          }
          MMNORM_CALL(spread_batch, m, mu.data(), pooled.data(), d, w, samples, channels);
        } else {
          const int64_t groups = groups_of(name, num_groups_);
          MMNORM_CALL(pool_groups, m, v, d, w, channels / groups, samples * groups);
        }
        d += planes;
        w += planes;
      }
    });
    // It is the caller's, and of no use to the backward.
    tracking_ = nullptr;
    kept = {deviation};
    return {deviation, variance};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const at::Tensor &deviation = kept[0], &batch_mean = inputs[2];
    const auto dtype = inputs[1].scalar_type();
    const auto size = static_cast<int64_t>(normalizers_.size());
    check_numbers(deviation, "deviation", dtype, {size, inputs[1].size(0), inputs[1].size(1)});
    const auto p = planes_of(deviation);
    const at::Tensor ddeviation = as(gradients[0].defined() ? gradients[0] : new_zeros(deviation.sizes(), dtype), dtype);
    const at::Tensor dvariance = as(gradients[1].defined() ? gradients[1] : new_zeros(deviation.sizes(), dtype), dtype);
    const at::Tensor dmean = new_zeros({p.samples, p.channels}, at::kDouble),
                     dvar = new_zeros({p.samples, p.channels}, dtype);
    at::Tensor dbatch;
    MMNORM_DISPATCH(dtype, "mmnorm::pool_backward", {
      double* dm = dmean.data_ptr<double>();
      T* dv = dvar.data_ptr<T>();
      const T *d = deviation.const_data_ptr<T>(), *a = ddeviation.const_data_ptr<T>(), *b = dvariance.const_data_ptr<T>();
      for (const auto& name : normalizers_) {
        if (name == "IN") {
          MMNORM_CALL(add, dv, b, p.planes());
        } else if (name == "BN") {
          std::vector<double> sums(2 * p.channels);
          double *first = sums.data(), *second = first + p.channels;
          MMNORM_CALL(sum_batch, a, b, first, second, p.samples, p.channels);
          if (batch_mean.defined()) {
            dbatch = at::tensor(sums, dmean.options()).view({2, p.channels});
            first = second = nullptr;
          }
          MMNORM_CALL(pool_batch_backward, d, a, first, second, dm, dv, p.samples, p.channels);
        } else {
          const int64_t groups = groups_of(name, num_groups_);
          MMNORM_CALL(pool_groups_backward, d, a, b, dm, dv, p.channels / groups, p.samples * groups);
        }
        d += p.planes();
        a += p.planes();
        b += p.planes();
      }
    });
    if (!dbatch.defined()) {
      return {dmean, dvar, at::Tensor(), at::Tensor()};
    }
    return {dmean, dvar, dbatch.select(0, 0).neg(), dbatch.select(0, 1)};
  }

 private:
  std::vector<std::string> normalizers_;
  int64_t num_groups_;
  Tracking* tracking_;
};

class GroupMomentsStep : public Step {
 public:
  GroupMomentsStep(int64_t groups, py::function again) : Step(std::move(again)), groups_(groups) {}

  void check(const variable_list& inputs) const override {
    check_moments(inputs[1], "var", 2);
    check_floating(inputs[0], "mean", inputs[1].sizes());
    check_groups(groups_, inputs[1].size(1));
  }

  // inputs: mean, var
  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const at::Tensor mean = as(inputs[0], at::kDouble), var = as(inputs[1], inputs[1].scalar_type());
    const at::Tensor mu = new_numbers({mean.size(0), groups_}, at::kDouble),
                     v = new_numbers(mu.sizes(), var.scalar_type());
    MMNORM_DISPATCH(var.scalar_type(), "mmnorm::group_moments", {
      MMNORM_CALL(group_moments, mean.const_data_ptr<double>(), var.const_data_ptr<T>(), mu.data_ptr<double>(),
                  v.data_ptr<T>(), mean.size(1) / groups_, mu.numel());
    });
    kept = {mu};
    return {as(mu, v.scalar_type()), v};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const at::Tensor mean = as(inputs[0], at::kDouble), &var = inputs[1], &mu = kept[0];
    check_numbers(mu, "group mean", at::kDouble, {mean.size(0), groups_});
    const at::Tensor dmu = as(gradients[0], at::kDouble), dv = as(gradients[1], var.scalar_type());
    const at::Tensor dmean = new_like(mean), dvar = new_like(var);
    MMNORM_DISPATCH(var.scalar_type(), "mmnorm::group_moments_backward", {
      MMNORM_CALL(group_moments_backward, mean.const_data_ptr<double>(), mu.const_data_ptr<double>(),
                  pointer<double>(dmu), pointer<T>(dv), dmean.data_ptr<double>(), dvar.data_ptr<T>(),
                  mean.size(1) / groups_, mu.numel());
    });
    return {dmean, dvar};
  }

 private:
  int64_t groups_;
};

}  // namespace

void define_pools(py::module_& module) {
  define_step<GroupMomentsStep, int64_t>(module, "group_moments", std::make_index_sequence<2>());
  module.def("pool", [](const at::Tensor& mean, const at::Tensor& var, const OptionalTensor& batch_mean,
                        const OptionalTensor& batch_var, const std::vector<std::string>& normalizers, int64_t num_groups,
                        const OptionalTensor& running_mean, const OptionalTensor& running_var,
                        const OptionalTensor& num_batches, Optional<double> momentum, int64_t positions,
                        py::function again) {
    Tracking tracking;
    if (running_mean.has_value()) {
      tracking = {*running_mean, *running_var, *num_batches, momentum, positions};
    }
    Tracking* tracked = running_mean.has_value() ? &tracking : nullptr;
    return run(c10::make_intrusive<PoolStep>(normalizers, num_groups, tracked, std::move(again)),
               {mean, var, or_undefined(batch_mean), or_undefined(batch_var)});
  });
}

}  // namespace mmnorm
