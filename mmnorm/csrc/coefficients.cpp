#include "coefficients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "again.h"

#define MMNORM_KERNELS "coefficient_kernels.h"
#include "instructions.h"

namespace mmnorm {
namespace {

namespace py = pybind11;

#define MMNORM_DISPATCH(dtype, name, ...)               \
  AT_DISPATCH_FLOATING_TYPES(dtype, name, [&] {         \
    using T = scalar_t;                                 \
    __VA_ARGS__;                                        \
  })

// A tensor as the loops read it: contiguous, in the type that is computed in; undefined if it is.
at::Tensor as(const at::Tensor& t, at::ScalarType dtype) {
  // Most are as they should be, and even an operator that does nothing takes a microsecond.
  return !t.defined() || (t.scalar_type() == dtype && t.is_contiguous()) ? t : t.to(dtype).contiguous();
}

at::Tensor as(const OptionalTensor& t, at::ScalarType dtype) { return t.has_value() ? as(*t, dtype) : at::Tensor(); }

at::Tensor value_of(const OptionalTensor& t) { return t.has_value() ? *t : at::Tensor(); }

template <typename T>
const T* pointer(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

at::Tensor given(const at::Tensor& parameter, const at::Tensor& gradient) {
  return parameter.defined() ? gradient : at::Tensor();
}

at::Tensor zeros_if_undefined(const at::Tensor& t, const at::Tensor& like) {
  return t.defined() ? as(t, like.scalar_type()) : at::zeros_like(like);
}

Planes planes_of(const at::Tensor& deviation) {
  return {deviation.size(0), deviation.size(1), deviation.size(2)};
}

// Groups of channels that `normalizer` pools; 0 if it pools something else.
int64_t groups_of(const std::string& normalizer, int64_t num_groups) {
  return normalizer == "LN" ? 1 : normalizer == "GN" ? num_groups : 0;
}

// Moves the running statistics towards a batch, as mmnorm.layers does: the variance is tracked as the unbiased one, with
// that of a single value being 0.
void track_batch(const RunningStats& stats, const std::vector<double>& mean, const std::vector<double>& var,
                 int64_t samples) {
  const auto values = static_cast<double>(samples * stats.positions);
  int64_t& batches = *stats.num_batches.data_ptr<int64_t>();
  ++batches;
  stats.num_batches.unsafeGetTensorImpl()->bump_version();
  const double factor = stats.momentum.has_value() ? *stats.momentum : 1.0 / static_cast<double>(batches);
  const double unbias = values / std::max(values - 1, 1.0);
  const auto dtype = stats.mean.scalar_type();
  at::Tensor running_mean = stats.mean.contiguous(), running_var = stats.var.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "mmnorm::track", [&] {
    MMNORM_CALL(track, running_mean.data_ptr<scalar_t>(), running_var.data_ptr<scalar_t>(), mean.data(), var.data(),
                factor, unbias, running_mean.numel());
  });
  if (running_mean.is_same(stats.mean)) {
    stats.mean.unsafeGetTensorImpl()->bump_version();
  } else {
    stats.mean.copy_(running_mean);
  }
  if (running_var.is_same(stats.var)) {
    stats.var.unsafeGetTensorImpl()->bump_version();
  } else {
    stats.var.copy_(running_var);
  }
}

constexpr auto kEps = "eps", kNormalizers = "normalizers", kGroups = "groups";

struct PoolNode : torch::autograd::Function<PoolNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& mean, const at::Tensor& var,
                               const OptionalTensor& batch_mean, const OptionalTensor& batch_var,
                               const std::vector<std::string>& normalizers, int64_t num_groups,
                               const RunningStats* track, py::function* again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t samples = mean.size(0), channels = mean.size(1), planes = samples * channels;
    const auto size = static_cast<int64_t>(normalizers.size());
    const at::Tensor deviation = at::empty({size, samples, channels}, var.options()), variance = at::empty_like(deviation);
    MMNORM_DISPATCH(var.scalar_type(), "mmnorm::pool", {
      const double* m = mean.const_data_ptr<double>();
      const T* v = var.const_data_ptr<T>();
      for (int64_t k = 0; k < size; ++k) {
        T *d = deviation.data_ptr<T>() + k * planes, *w = variance.data_ptr<T>() + k * planes;
        if (normalizers[k] == "IN") {
          std::fill(d, d + planes, T(0));
          std::copy(v, v + planes, w);
        } else if (normalizers[k] == "BN") {
          std::vector<double> mu(channels), pooled(channels);
          if (batch_mean.has_value()) {
            const at::Tensor given_mean = as(*batch_mean, at::kDouble), given_var = as(*batch_var, at::kDouble);
            std::copy_n(given_mean.const_data_ptr<double>(), channels, mu.data());
            std::copy_n(given_var.const_data_ptr<double>(), channels, pooled.data());
          } else {
            MMNORM_CALL(batch_moments, m, v, mu.data(), pooled.data(), samples, channels);
          }
          if (track != nullptr) {
            track_batch(*track, mu, pooled, samples);
          }
          MMNORM_CALL(spread_batch, m, mu.data(), pooled.data(), d, w, samples, channels);
        } else {
          const int64_t groups = groups_of(normalizers[k], num_groups);
          MMNORM_CALL(pool_groups, m, v, d, w, channels / groups, 0, samples * groups);
        }
      }
    });
    context->set_materialize_grads(false);
    context->save_for_backward({mean, var, value_of(batch_mean), value_of(batch_var), deviation});
    context->saved_data[kNormalizers] = normalizers;
    context->saved_data[kGroups] = num_groups;
    keep(context, std::move(*again));
    return {deviation, variance};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &mean = saved[0], &var = saved[1], &batch_mean = saved[2], &deviation = saved[4];
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = kept(context)(*context, {saved[0], saved[1], saved[2], saved[3]}, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const at::Tensor ddeviation = zeros_if_undefined(gradients[0], deviation),
                       dvariance = zeros_if_undefined(gradients[1], deviation);
      const auto p = planes_of(deviation);
      const at::Tensor dmean = at::zeros_like(mean), dvar = at::zeros_like(var);
      at::Tensor dbatch_mean, dbatch_var;
      const auto normalizers = context->saved_data[kNormalizers].toListRef();
      const int64_t num_groups = context->saved_data[kGroups].toInt();
      MMNORM_DISPATCH(var.scalar_type(), "mmnorm::pool_backward", {
        double* dm = dmean.data_ptr<double>();
        T* dv = dvar.data_ptr<T>();
        for (int64_t k = 0; k < p.normalizers; ++k) {
          const auto& name = normalizers[k].toStringRef();
          const T *d = deviation.const_data_ptr<T>() + k * p.planes(), *a = ddeviation.const_data_ptr<T>() + k * p.planes(),
                  *b = dvariance.const_data_ptr<T>() + k * p.planes();
          if (name == "IN") {
            MMNORM_CALL(add, dv, b, p.planes());
          } else if (name == "BN") {
            std::vector<double> sums(2 * p.channels);
            double *first = sums.data(), *second = first + p.channels;
            MMNORM_CALL(sum_batch, a, b, first, second, p.samples, p.channels);
            if (batch_mean.defined()) {
              const auto moments = at::tensor(sums, mean.options()).view({2, p.channels});
              dbatch_mean = moments.select(0, 0).neg();
              dbatch_var = moments.select(0, 1);
              first = second = nullptr;
            }
            MMNORM_CALL(pool_batch_backward, d, a, first, second, dm, dv, p.samples, p.channels);
          } else {
            const int64_t groups = groups_of(name, num_groups);
            MMNORM_CALL(pool_groups_backward, d, a, b, dm, dv, p.channels / groups, 0, p.samples * groups);
          }
        }
      });
      found = {dmean, dvar, dbatch_mean, dbatch_var};
    }
    found.resize(8);
    return found;
  }
};

struct GroupMomentsNode : torch::autograd::Function<GroupMomentsNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& mean, const at::Tensor& var, int64_t groups,
                               py::function* again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const int64_t samples = mean.size(0), size = mean.size(1) / groups;
    const at::Tensor mu = at::empty({samples, groups}, mean.options()), v = at::empty({samples, groups}, var.options());
    MMNORM_DISPATCH(var.scalar_type(), "mmnorm::group_moments", {
      MMNORM_CALL(group_moments, mean.const_data_ptr<double>(), var.const_data_ptr<T>(), mu.data_ptr<double>(),
                  v.data_ptr<T>(), size, 0, samples * groups);
    });
    context->set_materialize_grads(false);
    context->save_for_backward({mean, var, mu});
    keep(context, std::move(*again));
    return {mu, v};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &mean = saved[0], &var = saved[1], &mu = saved[2];
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = kept(context)(*context, {mean, var}, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const at::Tensor dmean = at::empty_like(mean), dvar = at::empty_like(var);
      const at::Tensor dmu = as(gradients[0], at::kDouble), dv = as(gradients[1], var.scalar_type());
      MMNORM_DISPATCH(var.scalar_type(), "mmnorm::group_moments_backward", {
        MMNORM_CALL(group_moments_backward, mean.const_data_ptr<double>(), mu.const_data_ptr<double>(),
                    pointer<double>(dmu), pointer<T>(dv), dmean.data_ptr<double>(), dvar.data_ptr<T>(),
                    mean.numel() / mu.numel(), 0, mu.numel());
      });
      found = {dmean, dvar};
    }
    found.resize(4);
    return found;
  }
};

struct MixStatisticsNode : torch::autograd::Function<MixStatisticsNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& deviation, const at::Tensor& variance,
                               const at::Tensor& ratios, const OptionalTensor& weight, const OptionalTensor& bias,
                               double eps, py::function* again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto p = planes_of(deviation);
    const auto dtype = deviation.scalar_type();
    const at::Tensor r = as(ratios, dtype), w = as(weight, dtype), b = as(bias, dtype);
    const at::Tensor scale = at::empty({p.samples, p.channels}, deviation.options()), shift = at::empty_like(scale);
    MMNORM_DISPATCH(dtype, "mmnorm::mix_statistics", {
      MMNORM_CALL(mix_statistics, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(), r.const_data_ptr<T>(),
                  pointer<T>(w), pointer<T>(b), static_cast<T>(eps), scale.data_ptr<T>(), shift.data_ptr<T>(), p);
    });
    context->set_materialize_grads(false);
    context->save_for_backward({deviation, variance, ratios, value_of(weight), value_of(bias)});
    context->saved_data[kEps] = eps;
    keep(context, std::move(*again));
    return {scale, shift};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &deviation = saved[0], &variance = saved[1], &ratios = saved[2], &weight = saved[3];
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = kept(context)(*context, saved, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto p = planes_of(deviation);
      const auto dtype = deviation.scalar_type();
      const at::Tensor plane = deviation.select(0, 0), dscale = zeros_if_undefined(gradients[0], plane),
                       dshift = zeros_if_undefined(gradients[1], plane);
      const at::Tensor ddeviation = at::empty_like(deviation), dvariance = at::empty_like(variance);
      const at::Tensor dratios = at::zeros({2, p.normalizers}, deviation.options().dtype(at::kDouble));
      const at::Tensor daffine = at::zeros({2, p.channels}, deviation.options());
      const at::Tensor r = as(ratios, dtype), w = as(weight, dtype);
      MMNORM_DISPATCH(dtype, "mmnorm::mix_statistics_backward", {
        MMNORM_CALL(mix_statistics_backward, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(),
                    r.const_data_ptr<T>(), pointer<T>(w), static_cast<T>(context->saved_data[kEps].toDouble()),
                    dscale.const_data_ptr<T>(), dshift.const_data_ptr<T>(), ddeviation.data_ptr<T>(),
                    dvariance.data_ptr<T>(), dratios.data_ptr<double>(), daffine.data_ptr<T>(),
                    daffine.data_ptr<T>() + p.channels, p);
      });
      found = {ddeviation, dvariance, dratios, given(weight, daffine.select(0, 0)), given(saved[4], daffine.select(0, 1))};
    }
    found.resize(7);
    return found;
  }
};

struct MixOutputsNode : torch::autograd::Function<MixOutputsNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& deviation, const at::Tensor& variance,
                               const at::Tensor& ratios, const OptionalTensor& weight, const OptionalTensor& bias,
                               double eps, py::function* again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto p = planes_of(deviation);
    const auto dtype = deviation.scalar_type();
    const at::Tensor r = as(ratios, dtype), w = as(weight, dtype);
    at::Tensor b = as(bias, dtype);
    if (b.defined() && b.dim() == 2) {
      b = b.sum(0);
    }
    const at::Tensor scale = at::empty({p.samples, p.channels}, deviation.options()), shift = at::empty_like(scale);
    MMNORM_DISPATCH(dtype, "mmnorm::mix_outputs", {
      MMNORM_CALL(mix_outputs, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(), r.const_data_ptr<T>(),
                  pointer<T>(w), weight_stride(w), pointer<T>(b), static_cast<T>(eps), scale.data_ptr<T>(),
                  shift.data_ptr<T>(), p);
    });
    context->set_materialize_grads(false);
    context->save_for_backward({deviation, variance, ratios, value_of(weight), value_of(bias)});
    context->saved_data[kEps] = eps;
    keep(context, std::move(*again));
    return {scale, shift};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &deviation = saved[0], &variance = saved[1], &ratios = saved[2], &weight = saved[3],
                     &bias = saved[4];
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = kept(context)(*context, saved, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto p = planes_of(deviation);
      const auto dtype = deviation.scalar_type();
      const at::Tensor plane = deviation.select(0, 0), dscale = zeros_if_undefined(gradients[0], plane),
                       dshift = zeros_if_undefined(gradients[1], plane);
      const at::Tensor ddeviation = at::empty_like(deviation), dvariance = at::empty_like(variance);
      const at::Tensor r = as(ratios, dtype), w = as(weight, dtype), dratios = at::empty_like(r);
      const at::Tensor dweight = at::zeros(w.defined() ? w.sizes() : at::IntArrayRef{p.channels}, deviation.options());
      at::Tensor dbias = at::zeros({p.channels}, deviation.options());
      MMNORM_DISPATCH(dtype, "mmnorm::mix_outputs_backward", {
        MMNORM_CALL(mix_outputs_backward, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(),
                    r.const_data_ptr<T>(), pointer<T>(w), weight_stride(w),
                    static_cast<T>(context->saved_data[kEps].toDouble()), dscale.const_data_ptr<T>(),
                    dshift.const_data_ptr<T>(), ddeviation.data_ptr<T>(), dvariance.data_ptr<T>(), dratios.data_ptr<T>(),
                    dweight.data_ptr<T>(), dbias.data_ptr<T>(), p);
      });
      if (bias.defined() && bias.dim() == 2) {
        dbias = dbias.expand(bias.sizes());
      }
      found = {ddeviation, dvariance, dratios, given(weight, dweight), given(bias, dbias)};
    }
    found.resize(7);
    return found;
  }

 private:
  static int64_t weight_stride(const at::Tensor& weight) {
    return weight.defined() && weight.dim() == 2 ? weight.size(1) : 0;
  }
};

struct CorrelateNode : torch::autograd::Function<CorrelateNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& deviation, const at::Tensor& variance,
                            const OptionalTensor& conv_weight, double eps, py::function* again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto p = planes_of(deviation);
    const auto dtype = deviation.scalar_type();
    const at::Tensor conv = as(conv_weight, dtype);
    const int64_t r = conv.defined() ? conv.size(1) : 0;
    const at::Tensor z = at::empty({p.samples, p.normalizers, r == 0 ? p.channels : p.channels / r}, deviation.options());
    const at::Tensor features = at::empty({p.samples, p.normalizers * p.normalizers}, deviation.options());
    MMNORM_DISPATCH(dtype, "mmnorm::correlate", {
      MMNORM_CALL(correlate, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(), pointer<T>(conv), r,
                  static_cast<T>(eps), z.data_ptr<T>(), features.data_ptr<T>(), p);
    });
    context->save_for_backward({deviation, variance, value_of(conv_weight), z});
    context->saved_data[kEps] = eps;
    keep(context, std::move(*again));
    return features;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &deviation = saved[0], &variance = saved[1], &conv_weight = saved[2], &z = saved[3];
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = kept(context)(*context, {deviation, variance, conv_weight}, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto p = planes_of(deviation);
      const auto dtype = deviation.scalar_type();
      const at::Tensor conv = as(conv_weight, dtype), dfeatures = as(gradients[0], dtype);
      const at::Tensor ddeviation = at::empty_like(deviation), dvariance = at::empty_like(variance);
      const at::Tensor dconv = at::zeros({p.channels}, deviation.options());
      MMNORM_DISPATCH(dtype, "mmnorm::correlate_backward", {
        MMNORM_CALL(correlate_backward, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(), pointer<T>(conv),
                    conv.defined() ? conv.size(1) : 0, static_cast<T>(context->saved_data[kEps].toDouble()),
                    z.const_data_ptr<T>(), dfeatures.const_data_ptr<T>(), ddeviation.data_ptr<T>(),
                    dvariance.data_ptr<T>(), dconv.data_ptr<T>(), p);
      });
      found = {ddeviation, dvariance, conv.defined() ? dconv.view_as(conv) : at::Tensor()};
    }
    found.resize(5);
    return found;
  }
};

struct RescaleNode : torch::autograd::Function<RescaleNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& deviation, const at::Tensor& variance,
                               const at::Tensor& omega, const at::Tensor& beta, const OptionalTensor& weight,
                               const OptionalTensor& bias, double eps, py::function* again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto p = planes_of(deviation);
    const auto dtype = deviation.scalar_type();
    const at::Tensor o = as(omega, dtype), b = as(beta, dtype), w = as(weight, dtype), c = as(bias, dtype);
    const at::Tensor scale = at::empty({p.samples, p.channels}, deviation.options()), shift = at::empty_like(scale);
    MMNORM_DISPATCH(dtype, "mmnorm::rescale", {
      MMNORM_CALL(rescale, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(), o.const_data_ptr<T>(),
                  b.const_data_ptr<T>(), pointer<T>(w), pointer<T>(c), static_cast<T>(eps), scale.data_ptr<T>(),
                  shift.data_ptr<T>(), o.size(1), p);
    });
    context->set_materialize_grads(false);
    context->save_for_backward({deviation, variance, omega, beta, value_of(weight), value_of(bias)});
    context->saved_data[kEps] = eps;
    keep(context, std::move(*again));
    return {scale, shift};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &deviation = saved[0], &variance = saved[1], &weight = saved[4], &bias = saved[5];
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = kept(context)(*context, saved, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto p = planes_of(deviation);
      const auto dtype = deviation.scalar_type();
      const at::Tensor plane = deviation.select(0, 0), dscale = zeros_if_undefined(gradients[0], plane),
                       dshift = zeros_if_undefined(gradients[1], plane);
      const at::Tensor o = as(saved[2], dtype), w = as(weight, dtype);
      const at::Tensor ddeviation = at::empty_like(deviation), dvariance = at::empty_like(variance),
                       domega = at::empty_like(o), dbeta = at::empty_like(o);
      const at::Tensor daffine = at::zeros({2, p.channels}, deviation.options());
      MMNORM_DISPATCH(dtype, "mmnorm::rescale_backward", {
        MMNORM_CALL(rescale_backward, deviation.const_data_ptr<T>(), variance.const_data_ptr<T>(), o.const_data_ptr<T>(),
                    pointer<T>(w), static_cast<T>(context->saved_data[kEps].toDouble()), dscale.const_data_ptr<T>(),
                    dshift.const_data_ptr<T>(), ddeviation.data_ptr<T>(), dvariance.data_ptr<T>(), domega.data_ptr<T>(),
                    dbeta.data_ptr<T>(), daffine.data_ptr<T>(), daffine.data_ptr<T>() + p.channels, o.size(1), p);
      });
      found = {ddeviation, dvariance, domega, dbeta, given(weight, daffine.select(0, 0)), given(bias, daffine.select(0, 1))};
    }
    found.resize(8);
    return found;
  }
};

Pair as_pair(const variable_list& two) { return {two[0], two[1]}; }

}  // namespace

Pair pool(const at::Tensor& mean, const at::Tensor& var, const OptionalTensor& batch_mean,
          const OptionalTensor& batch_var, std::vector<std::string> normalizers, int64_t num_groups,
          const Optional<RunningStats>& track, py::function again) {
  const RunningStats* stats = track.has_value() ? &*track : nullptr;
  return as_pair(PoolNode::apply(mean, var, batch_mean, batch_var, normalizers, num_groups, stats, &again));
}

Pair group_moments(const at::Tensor& mean, const at::Tensor& var, int64_t groups, py::function again) {
  return as_pair(GroupMomentsNode::apply(mean, var, groups, &again));
}

Pair mix_statistics(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& ratios,
                    const OptionalTensor& weight, const OptionalTensor& bias, double eps, py::function again) {
  return as_pair(MixStatisticsNode::apply(deviation, variance, ratios, weight, bias, eps, &again));
}

Pair mix_outputs(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& ratios,
                 const OptionalTensor& weight, const OptionalTensor& bias, double eps, py::function again) {
  return as_pair(MixOutputsNode::apply(deviation, variance, ratios, weight, bias, eps, &again));
}

at::Tensor correlate(const at::Tensor& deviation, const at::Tensor& variance, const OptionalTensor& conv_weight,
                     double eps, py::function again) {
  return CorrelateNode::apply(deviation, variance, conv_weight, eps, &again);
}

Pair rescale(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& omega, const at::Tensor& beta,
             const OptionalTensor& weight, const OptionalTensor& bias, double eps, py::function again) {
  return as_pair(RescaleNode::apply(deviation, variance, omega, beta, weight, bias, eps, &again));
}

}  // namespace mmnorm
