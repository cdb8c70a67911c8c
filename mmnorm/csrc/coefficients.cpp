#include "coefficients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#define MMNORM_KERNELS "coefficient_kernels.h"
#include "instructions.h"

namespace mmnorm {
namespace {

#define MMNORM_DISPATCH(dtype, name, ...)               \
  AT_DISPATCH_FLOATING_TYPES(dtype, name, [&] {         \
    using T = scalar_t;                                 \
    __VA_ARGS__;                                        \
  })

// A parameter as the loops read it: contiguous, in the type that is computed in; undefined if it is.
at::Tensor as(const at::Tensor& t, at::ScalarType dtype) {
  // Most are as they should be, and even an operator that does nothing takes a microsecond.
  return !t.defined() || (t.scalar_type() == dtype && t.is_contiguous()) ? t : t.to(dtype).contiguous();
}

template <typename T>
const T* pointer(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

at::Tensor given(const at::Tensor& parameter, const at::Tensor& gradient) {
  return parameter.defined() ? gradient : at::Tensor();
}

at::Tensor activate(const std::string& name, const at::Tensor& t) {
  return name == "tanh" ? t.tanh() : name == "sigmoid" ? t.sigmoid() : name == "relu" ? t.relu() : t;
}

// The gradient of an activation's input, from its value y.
at::Tensor activation_backward(const std::string& name, const at::Tensor& y, const at::Tensor& dy) {
  return name == "tanh"      ? dy * (1 - y.square())
         : name == "sigmoid" ? dy * (y * (1 - y))
         : name == "relu"    ? dy * (y > 0)
                             : dy;
}

// Moves the running statistics towards a batch of `values` values a channel, as mmnorm.layers does: the variance is
// tracked as the unbiased one, with that of a single value being 0.
void track_batch(const RunningStats& stats, const at::Tensor& mean, const at::Tensor& var, int64_t values) {
  int64_t& batches = *stats.num_batches.data_ptr<int64_t>();
  ++batches;
  const double factor = stats.momentum.value_or(1.0 / static_cast<double>(batches));
  const double unbias = static_cast<double>(values) / static_cast<double>(std::max<int64_t>(values - 1, 1));
  const auto dtype = stats.mean.scalar_type();
  if (dtype != var.scalar_type() || !stats.mean.is_contiguous() || !stats.var.is_contiguous()) {
    stats.mean.lerp_(mean.to(dtype), factor);
    stats.var.lerp_((var * unbias).to(dtype), factor);
    return;
  }
  MMNORM_DISPATCH(dtype, "mmnorm::track", {
    MMNORM_CALL(track, stats.mean.data_ptr<T>(), stats.var.data_ptr<T>(), mean.const_data_ptr<double>(),
                var.const_data_ptr<T>(), factor, unbias, mean.numel());
  });
}

}  // namespace

Pool::Pool(const std::vector<std::string>& names, const std::vector<int64_t>& groups,
           const OptionalTensor& running_mean, const OptionalTensor& running_var, std::optional<RunningStats> track)
    : groups_(groups), running_mean_(running_mean), running_var_(running_var), track_(std::move(track)) {
  for (size_t k = 0; k < names.size(); ++k) {
    const std::string& name = names[k];
    kinds_.push_back(name == "IN"        ? Kind::Instance
                     : name == "BN"      ? Kind::Batch
                     : name == "running" ? Kind::Running
                                         : Kind::Group);
    if (name == "LN") {
      groups_[k] = 1;
    }
  }
}

int64_t Pool::count(int64_t k, int64_t samples, int64_t channels) const {
  switch (kinds_[k]) {
    case Kind::Group:
      return samples * groups_[k];
    case Kind::Batch:
      return channels;
    default:
      return 0;
  }
}

std::tuple<at::Tensor, at::Tensor> Pool::pool(const at::Tensor& mean, const at::Tensor& var) const {
  const int64_t samples = mean.size(0), channels = mean.size(1);
  int64_t total = 0;
  for (int64_t k = 0; k < size(); ++k) {
    total += count(k, samples, channels);
  }
  at::Tensor pooled_mean = at::empty({total}, at::kDouble), pooled_var = at::empty({total}, var.options());
  MMNORM_DISPATCH(var.scalar_type(), "mmnorm::pool", {
    const double* m = mean.const_data_ptr<double>();
    const T* v = var.const_data_ptr<T>();
    double* mu = pooled_mean.data_ptr<double>();
    T* w = pooled_var.data_ptr<T>();
    for (int64_t k = 0; k < size(); ++k) {
      if (kinds_[k] == Kind::Group) {
        MMNORM_CALL(pool_groups, m, v, mu, w, samples, channels, groups_[k]);
      } else if (kinds_[k] == Kind::Batch) {
        MMNORM_CALL(pool_batch, m, v, mu, w, samples, channels);
        if (track_.has_value()) {
          const int64_t first = mu - pooled_mean.data_ptr<double>();
          track_batch(*track_, pooled_mean.slice(0, first, first + channels), pooled_var.slice(0, first, first + channels),
                      samples * track_->positions);
        }
      }
      mu += count(k, samples, channels);
      w += count(k, samples, channels);
    }
  });
  return {pooled_mean, pooled_var};
}

template <typename T>
Pooled<T> Pool::view(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                     const at::Tensor& pooled_mean, const at::Tensor& pooled_var) const {
  Pooled<T> view{mean.size(0), mean.size(1), size(), center.const_data_ptr<T>(), kinds_, groups_, {}, {}};
  const double* mu = pooled_mean.const_data_ptr<double>();
  const T* w = pooled_var.const_data_ptr<T>();
  for (int64_t k = 0; k < size(); ++k) {
    if (kinds_[k] == Kind::Instance) {
      view.mean.push_back(mean.const_data_ptr<double>());
      view.var.push_back(var.const_data_ptr<T>());
    } else if (kinds_[k] == Kind::Running) {
      view.mean.push_back(running_mean_->const_data_ptr<double>());
      view.var.push_back(running_var_->const_data_ptr<T>());
    } else {
      view.mean.push_back(mu);
      view.var.push_back(w);
    }
    mu += count(k, view.samples, view.channels);
    w += count(k, view.samples, view.channels);
  }
  return view;
}

Tensors SwitchableForm::forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                                const Tensors& params) const {
  const at::Tensor &weight = params[0], &bias = params[1], &mean_weight = params[2], &var_weight = params[3];
  const auto dtype = center.scalar_type();
  const auto [pooled_mean, pooled_var] = pool_.pool(mean, var);
  const auto w = as(weight, dtype), b = as(bias, dtype);
  const at::Tensor mean_logits = as(mean_weight, dtype), var_logits = as(var_weight, dtype);
  at::Tensor ratios = at::empty({2, pool_.size()}, center.options());
  at::Tensor scale = at::empty_like(center), shift = at::empty_like(center), deviation = at::empty_like(center),
             inv_std = at::empty_like(center);
  MMNORM_DISPATCH(dtype, "mmnorm::switchable_forward", {
    const Pooled<T> view = pool_.view<T>(mean, var, center, pooled_mean, pooled_var);
    MMNORM_CALL(switchable_forward, view, mean_logits.const_data_ptr<T>(), var_logits.const_data_ptr<T>(),
                ratios.data_ptr<T>(), static_cast<T>(eps_), pointer<T>(w), pointer<T>(b), scale.data_ptr<T>(), shift.data_ptr<T>(),
                deviation.data_ptr<T>(), inv_std.data_ptr<T>());
  });
  return {scale, shift, mean, var, center, pooled_mean, pooled_var, ratios, scale, deviation, inv_std};
}

Tensors SwitchableForm::backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                                 const at::Tensor& dshift) const {
  const at::Tensor &mean = saved[0], &var = saved[1], &center = saved[2];
  const auto dtype = center.scalar_type();
  at::Tensor dmean = at::empty_like(center), dvar = at::empty_like(center);
  at::Tensor dweight = at::zeros({center.size(1)}, center.options()), dbias = at::zeros_like(dweight);
  at::Tensor dlogits = at::empty({2, pool_.size()}, center.options());
  MMNORM_DISPATCH(dtype, "mmnorm::switchable_backward", {
    const Pooled<T> view = pool_.view<T>(mean, var, center, saved[3], saved[4]);
    MMNORM_CALL(switchable_backward, view, saved[5].const_data_ptr<T>(), saved[6].const_data_ptr<T>(),
                saved[7].const_data_ptr<T>(), saved[8].const_data_ptr<T>(), dscale.const_data_ptr<T>(),
                dshift.const_data_ptr<T>(), dmean.data_ptr<T>(), dvar.data_ptr<T>(), dweight.data_ptr<T>(),
                dbias.data_ptr<T>(), dlogits.data_ptr<T>());
  });
  return {dmean, dvar, given(params[0], dweight), given(params[1], dbias), dlogits.select(0, 0), dlogits.select(0, 1)};
}

Tensors ExemplarForm::forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                              const Tensors& params) const {
  const at::Tensor &weight = params[0], &bias = params[1], &conv_weight = params[2], &fc1_weight = params[3],
                   &fc1_bias = params[4], &fc2_weight = params[5], &fc2_bias = params[6];
  const auto dtype = center.scalar_type();
  const int64_t n = center.size(0), c = center.size(1), k = pool_.size();
  const auto [pooled_mean, pooled_var] = pool_.pool(mean, var);
  const auto w = as(weight, dtype), conv = as(conv_weight, dtype);
  at::Tensor b = as(bias, dtype);
  if (b.defined() && b.dim() == 2) {
    b = b.sum(0);
  }
  const int64_t r = conv.defined() ? conv.size(1) : 0;
  at::Tensor scale = at::empty_like(center), shift = at::empty_like(center);
  at::Tensor z = at::empty({pairwise_ ? n : 0, k, r == 0 ? c : c / r}, center.options());
  at::Tensor features = pairwise_ ? at::empty({n, k * k}, center.options()) : center;
  at::Tensor hidden, ratios;
  MMNORM_DISPATCH(dtype, "mmnorm::exemplar_forward", {
    const Pooled<T> view = pool_.view<T>(mean, var, center, pooled_mean, pooled_var);
    if (pairwise_) {
      MMNORM_CALL(exemplar_features, view, static_cast<T>(eps_), pointer<T>(conv), r, z.data_ptr<T>(),
                  features.data_ptr<T>());
    }
    hidden = at::addmm(as(fc1_bias, dtype), features, as(fc1_weight, dtype).t());
    hidden = tanh_ ? hidden.tanh_() : hidden.relu_();
    ratios = at::addmm(as(fc2_bias, dtype), hidden, as(fc2_weight, dtype).t()).softmax(1);
    MMNORM_CALL(exemplar_mix, view, static_cast<T>(eps_), ratios.const_data_ptr<T>(), pointer<T>(w),
                w.defined() && w.dim() == 2 ? c : 0, pointer<T>(b), scale.data_ptr<T>(), shift.data_ptr<T>());
  });
  return {scale, shift, mean, var, center, pooled_mean, pooled_var, z, features, hidden, ratios};
}

Tensors ExemplarForm::backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                               const at::Tensor& dshift) const {
  const at::Tensor &weight = params[0], &bias = params[1], &conv_weight = params[2], &fc1_weight = params[3],
                   &fc2_weight = params[5];
  const at::Tensor &mean = saved[0], &var = saved[1], &center = saved[2], &z = saved[5], &features = saved[6],
                   &hidden = saved[7], &ratios = saved[8];
  const auto dtype = center.scalar_type();
  const int64_t c = center.size(1), k = pool_.size();
  const auto w = as(weight, dtype), conv = as(conv_weight, dtype);
  const int64_t r = conv.defined() ? conv.size(1) : 0, weight_stride = w.defined() && w.dim() == 2 ? c : 0;
  at::Tensor dvar = at::empty_like(center), dlogits = at::empty_like(ratios);
  at::Tensor dweight = at::zeros({k, c}, center.options()), dbias = at::zeros({c}, center.options()),
             dconv = at::zeros({c}, center.options());
  at::Tensor dmean, dhidden, dfeatures;
  MMNORM_DISPATCH(dtype, "mmnorm::exemplar_backward", {
    const Pooled<T> view = pool_.view<T>(mean, var, center, saved[3], saved[4]);
    const T e = static_cast<T>(eps_);
    MMNORM_CALL(exemplar_ratio_gradients, view, e, ratios.const_data_ptr<T>(), pointer<T>(w), weight_stride,
                dscale.const_data_ptr<T>(), dshift.const_data_ptr<T>(), dweight.data_ptr<T>(), dbias.data_ptr<T>(),
                dlogits.data_ptr<T>());
    dhidden = at::mm(dlogits, as(fc2_weight, dtype));
    dhidden = tanh_ ? dhidden.addcmul_(dhidden, hidden.square(), -1) : dhidden.mul_(hidden > 0);
    dfeatures = at::mm(dhidden, as(fc1_weight, dtype));
    dmean = pairwise_ ? at::zeros_like(center) : dfeatures;
    MMNORM_CALL(exemplar_moment_gradients, view, e, ratios.const_data_ptr<T>(), pointer<T>(w), weight_stride,
                pointer<T>(conv), r, z.const_data_ptr<T>(), pairwise_ ? dfeatures.const_data_ptr<T>() : nullptr,
                dscale.const_data_ptr<T>(), dshift.const_data_ptr<T>(), dmean.data_ptr<T>(), dvar.data_ptr<T>(),
                dconv.data_ptr<T>());
  });
  if (weight.defined() && weight.dim() == 1) {
    dweight = dweight.sum(0);
  }
  if (bias.defined() && bias.dim() == 2) {
    dbias = dbias.expand({k, c});
  }
  return {dmean,
          dvar,
          given(weight, dweight),
          given(bias, dbias),
          conv.defined() ? dconv.view_as(conv) : at::Tensor(),
          at::mm(dhidden.t(), features),
          dhidden.sum(0),
          at::mm(dlogits.t(), hidden),
          dlogits.sum(0)};
}

Tensors InstanceMetaForm::forward(const at::Tensor& mean, const at::Tensor& var, const at::Tensor& center,
                                  const Tensors& params) const {
  const at::Tensor &weight = params[0], &bias = params[1], &encoder = params[2], &mean_decoder = params[3],
                   &var_decoder = params[4];
  const auto dtype = center.scalar_type();
  const int64_t n = center.size(0), groups = encoder.size(1);
  const auto [pooled_mean, pooled_var] = pool_.pool(mean, var);
  const auto w = as(weight, dtype), b = as(bias, dtype);
  // The key groups come last. Both of their features go through one encoder.
  const int64_t first = pooled_mean.size(0) - n * groups;
  const at::Tensor keys =
      at::cat({pooled_mean.slice(0, first).to(dtype), pooled_var.slice(0, first)}).view({2 * n, groups});
  const at::Tensor embedding = at::mm(keys, as(encoder, dtype).t()).relu_();
  const at::Tensor beta =
      activate(mean_activation_, at::mm(embedding.slice(0, 0, n), as(mean_decoder, dtype).t())).contiguous();
  const at::Tensor omega =
      activate(var_activation_, at::mm(embedding.slice(0, n), as(var_decoder, dtype).t())).contiguous();
  at::Tensor scale = at::empty_like(center), shift = at::empty_like(center);
  MMNORM_DISPATCH(dtype, "mmnorm::instance_meta_forward", {
    const Pooled<T> view = pool_.view<T>(mean, var, center, pooled_mean, pooled_var);
    MMNORM_CALL(instance_meta_mix, view, static_cast<T>(eps_), omega.const_data_ptr<T>(), beta.const_data_ptr<T>(),
                pointer<T>(w), pointer<T>(b), scale.data_ptr<T>(), shift.data_ptr<T>());
  });
  return {scale, shift, mean, var, center, pooled_mean, pooled_var, scale, keys, embedding, beta, omega};
}

Tensors InstanceMetaForm::backward(const Tensors& saved, const Tensors& params, const at::Tensor& dscale,
                                   const at::Tensor& dshift) const {
  const at::Tensor &weight = params[0], &bias = params[1], &encoder = params[2], &mean_decoder = params[3],
                   &var_decoder = params[4];
  const at::Tensor &mean = saved[0], &var = saved[1], &center = saved[2], &scale = saved[5], &keys = saved[6],
                   &embedding = saved[7], &beta = saved[8], &omega = saved[9];
  const auto dtype = center.scalar_type();
  const int64_t n = center.size(0);
  at::Tensor dmean = at::empty_like(center), dvar = at::empty_like(center);
  at::Tensor dweight = at::zeros({center.size(1)}, center.options()), dbias = at::zeros_like(dweight);
  at::Tensor domega = at::empty_like(omega), dbeta = at::empty_like(beta), dencoder, dmean_decoder, dvar_decoder;
  MMNORM_DISPATCH(dtype, "mmnorm::instance_meta_backward", {
    const Pooled<T> view = pool_.view<T>(mean, var, center, saved[3], saved[4]);
    MMNORM_CALL(instance_meta_base_gradients, view, static_cast<T>(eps_), scale.const_data_ptr<T>(),
                dscale.const_data_ptr<T>(), dshift.const_data_ptr<T>(), dmean.data_ptr<T>(), dvar.data_ptr<T>(),
                dweight.data_ptr<T>(), dbias.data_ptr<T>(), domega.data_ptr<T>(), dbeta.data_ptr<T>());
    domega = activation_backward(var_activation_, omega, domega);
    dbeta = activation_backward(mean_activation_, beta, dbeta);
    const at::Tensor dembedding =
        at::cat({at::mm(dbeta, as(mean_decoder, dtype)), at::mm(domega, as(var_decoder, dtype))}).mul_(embedding > 0);
    const at::Tensor dkeys = at::mm(dembedding, as(encoder, dtype));
    dencoder = at::mm(dembedding.t(), keys);
    dmean_decoder = at::mm(dbeta.t(), embedding.slice(0, 0, n));
    dvar_decoder = at::mm(domega.t(), embedding.slice(0, n));
    MMNORM_CALL(instance_meta_key_gradients, view, dkeys.const_data_ptr<T>(), dmean.data_ptr<T>(),
                dvar.data_ptr<T>());
  });
  return {dmean, dvar, given(weight, dweight), given(bias, dbias), dencoder, dmean_decoder, dvar_decoder};
}

}  // namespace mmnorm
