#include "coefficients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "again.h"
#include "checks.h"

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
  const bool as_is = !t.defined() || (t.scalar_type() == dtype && t.is_contiguous() && !t.is_neg());
  return as_is ? t : t.to(dtype).contiguous().resolve_neg();
}

template <typename T>
const T* pointer(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

Planes planes_of(const at::Tensor& deviation) {
  return {deviation.size(0), deviation.size(1), deviation.size(2)};
}

at::Tensor planes_like(const at::Tensor& deviation) {
  return at::empty({deviation.size(1), deviation.size(2)}, deviation.options());
}

// One step: outputs from inputs, and the inputs' gradients from the outputs'. Inputs that are left out are undefined.
class Step : public Again {
 public:
  using Again::Again;
  // Refuses what the loops cannot read; also in the backward, as what is saved may pass through hooks.
  virtual void check(const variable_list& inputs) const = 0;
  // `kept` is what the backward needs besides the inputs.
  virtual variable_list forward(const variable_list& inputs, variable_list& kept) = 0;
  // Gradients that nothing sends back are undefined, as are those of inputs that are left out.
  virtual variable_list backward(const variable_list& inputs, const variable_list& kept,
                                 const variable_list& gradients) const = 0;

  std::vector<bool> given;
};

struct StepNode : torch::autograd::Function<StepNode> {
  static variable_list forward(AutogradContext* context, at::TensorList given, const c10::intrusive_ptr<Step>& step) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved;
    const variable_list inputs = expand(given, step->given);
    step->check(inputs);
    const variable_list outputs = step->forward(inputs, saved);
    saved.insert(saved.begin(), given.begin(), given.end());
    context->set_materialize_grads(false);
    context->save_for_backward(std::move(saved));
    keep(context, step);
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto& step = static_cast<const Step&>(kept(context));
    const variable_list saved = context->get_saved_variables();
    const variable_list inputs = expand(saved, step.given);
    step.check(inputs);
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = step.again(*context, inputs, gradients);
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto count = std::count(step.given.begin(), step.given.end(), true);
      found = step.backward(inputs, {saved.begin() + count, saved.end()}, gradients);
    }
    variable_list result;
    for (size_t i = 0; i < step.given.size(); ++i) {
      if (step.given[i]) {
        result.push_back(found[i]);
      }
    }
    // The step itself is no tensor.
    result.emplace_back();
    return result;
  }

 private:
  // All inputs, of the first tensors, which are those that were given: autograd's functions take no undefined ones.
  static variable_list expand(at::TensorList tensors, const std::vector<bool>& given) {
    variable_list inputs;
    size_t next = 0;
    for (const bool is_given : given) {
      inputs.push_back(is_given ? tensors[next++] : at::Tensor());
    }
    return inputs;
  }
};

variable_list run(const c10::intrusive_ptr<Step>& step, std::initializer_list<OptionalTensor> inputs) {
  variable_list given;
  for (const auto& input : inputs) {
    step->given.push_back(input.has_value() && input->defined());
    if (step->given.back()) {
      given.push_back(*input);
    }
  }
  return StepNode::apply(at::TensorList(given), step);
}

// Moments that a step starts from: their type is computed in.
void check_moments(const at::Tensor& t, const char* name, int64_t dims) {
  MMNORM_EXPECT(is_dense_cpu(t) && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble) &&
                    t.dim() == dims && t.numel() > 0,
                name, t, "a tensor of float or double on the CPU, with ", dims, " dimensions, that is not empty");
}

// A parameter that may be left out.
void check_optional(const at::Tensor& t, const char* name, at::IntArrayRef sizes) {
  if (t.defined()) {
    check_floating(t, name, sizes);
  }
}

// gamma or beta, (C,) or (K, C).
void check_rows(const at::Tensor& t, const char* name, const Planes& p) {
  if (t.defined() && t.dim() == 2) {
    check_floating(t, name, {p.normalizers, p.channels});
  } else {
    check_optional(t, name, {p.channels});
  }
}

void check_groups(int64_t groups, int64_t channels) {
  TORCH_CHECK(groups > 0 && channels % groups == 0, "mmnorm: groups: expected a divisor of ", channels,
              " channels, got ", groups);
}

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
    const at::Tensor deviation = at::empty({size, samples, channels}, var.options()), variance = at::empty_like(deviation);
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
    const at::Tensor ddeviation = as(gradients[0].defined() ? gradients[0] : at::zeros_like(deviation), dtype);
    const at::Tensor dvariance = as(gradients[1].defined() ? gradients[1] : at::zeros_like(deviation), dtype);
    const at::Tensor dmean = at::zeros({p.samples, p.channels}, inputs[0].options().dtype(at::kDouble)),
                     dvar = at::zeros({p.samples, p.channels}, deviation.options());
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
    const at::Tensor mu = at::empty({mean.size(0), groups_}, mean.options()), v = at::empty(mu.sizes(), var.options());
    MMNORM_DISPATCH(var.scalar_type(), "mmnorm::group_moments", {
      MMNORM_CALL(group_moments, mean.const_data_ptr<double>(), var.const_data_ptr<T>(), mu.data_ptr<double>(),
                  v.data_ptr<T>(), mean.size(1) / groups_, mu.numel());
    });
    kept = {mu};
    return {mu, v};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const at::Tensor mean = as(inputs[0], at::kDouble), &var = inputs[1], &mu = kept[0];
    check_numbers(mu, "group mean", at::kDouble, {mean.size(0), groups_});
    const at::Tensor dmu = as(gradients[0], at::kDouble), dv = as(gradients[1], var.scalar_type());
    const at::Tensor dmean = at::empty_like(mean), dvar = at::empty(var.sizes(), var.options());
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

// A step that ends in scale and shift, or begins with the pool's moments.
class MixingStep : public Step {
 public:
  MixingStep(double eps, py::function again) : Step(std::move(again)), eps_(eps) {
    TORCH_CHECK(eps > 0, "mmnorm: eps: expected a positive number, got ", eps);
  }

 protected:
  static Planes checked_pool(const variable_list& inputs) {
    check_moments(inputs[0], "deviation", 3);
    check_floating(inputs[1], "variance", inputs[0].sizes());
    return planes_of(inputs[0]);
  }

  static at::Tensor or_zeros(const at::Tensor& gradient, const at::Tensor& deviation) {
    return gradient.defined() ? as(gradient, deviation.scalar_type()) : planes_like(deviation).zero_();
  }

  double eps_;
};

class MixStatisticsStep : public MixingStep {
 public:
  using MixingStep::MixingStep;

  void check(const variable_list& inputs) const override {
    const auto p = checked_pool(inputs);
    check_floating(inputs[2], "ratios", {2, p.normalizers});
    check_optional(inputs[3], "weight", {p.channels});
    check_optional(inputs[4], "bias", {p.channels});
  }

  // inputs: deviation, variance, ratios, weight, bias
  variable_list forward(const variable_list& inputs, variable_list&) override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), r = as(inputs[2], dtype),
                     w = as(inputs[3], dtype), b = as(inputs[4], dtype);
    const at::Tensor scale = planes_like(d), shift = planes_like(d);
    MMNORM_DISPATCH(dtype, "mmnorm::mix_statistics", {
      MMNORM_CALL(mix_statistics, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w), pointer<T>(b),
                  static_cast<T>(eps_), scale.data_ptr<T>(), shift.data_ptr<T>(), planes_of(d));
    });
    return {scale, shift};
  }

  variable_list backward(const variable_list& inputs, const variable_list&,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), r = as(inputs[2], dtype),
                     w = as(inputs[3], dtype);
    const at::Tensor dscale = or_zeros(gradients[0], d), dshift = or_zeros(gradients[1], d);
    const at::Tensor ddeviation = at::empty_like(d), dvariance = at::empty_like(v), dratios = at::empty_like(r);
    const at::Tensor dweight = at::zeros({d.size(2)}, d.options()), dbias = at::zeros({d.size(2)}, d.options());
    MMNORM_DISPATCH(dtype, "mmnorm::mix_statistics_backward", {
      MMNORM_CALL(mix_statistics_backward, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w),
                  static_cast<T>(eps_), pointer<T>(dscale), pointer<T>(dshift), ddeviation.data_ptr<T>(),
                  dvariance.data_ptr<T>(), dratios.data_ptr<T>(), dweight.data_ptr<T>(), dbias.data_ptr<T>(),
                  planes_of(d));
    });
    return {ddeviation, dvariance, dratios, dweight, dbias};
  }
};

class MixOutputsStep : public MixingStep {
 public:
  using MixingStep::MixingStep;

  void check(const variable_list& inputs) const override {
    const auto p = checked_pool(inputs);
    check_floating(inputs[2], "ratios", {p.samples, p.normalizers});
    check_rows(inputs[3], "weight", p);
    check_rows(inputs[4], "bias", p);
  }

  // inputs: deviation, variance, ratios, weight, bias
  variable_list forward(const variable_list& inputs, variable_list&) override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), r = as(inputs[2], dtype),
                     w = as(inputs[3], dtype), betas = as(inputs[4], dtype);
    const at::Tensor b = betas.defined() && betas.dim() == 2 ? betas.sum(0) : betas;
    const at::Tensor scale = planes_like(d), shift = planes_like(d);
    MMNORM_DISPATCH(dtype, "mmnorm::mix_outputs", {
      MMNORM_CALL(mix_outputs, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w), stride(w), pointer<T>(b),
                  static_cast<T>(eps_), scale.data_ptr<T>(), shift.data_ptr<T>(), planes_of(d));
    });
    return {scale, shift};
  }

  variable_list backward(const variable_list& inputs, const variable_list&,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), r = as(inputs[2], dtype),
                     w = as(inputs[3], dtype), &betas = inputs[4];
    const at::Tensor dscale = or_zeros(gradients[0], d), dshift = or_zeros(gradients[1], d);
    const at::Tensor ddeviation = at::empty_like(d), dvariance = at::empty_like(v), dratios = at::empty_like(r);
    const at::Tensor dweight = w.defined() ? at::zeros_like(w) : at::zeros({d.size(2)}, d.options());
    const at::Tensor dbias = at::zeros({d.size(2)}, d.options());
    MMNORM_DISPATCH(dtype, "mmnorm::mix_outputs_backward", {
      MMNORM_CALL(mix_outputs_backward, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w), stride(w),
                  static_cast<T>(eps_), pointer<T>(dscale), pointer<T>(dshift), ddeviation.data_ptr<T>(),
                  dvariance.data_ptr<T>(), dratios.data_ptr<T>(), dweight.data_ptr<T>(), dbias.data_ptr<T>(),
                  planes_of(d));
    });
    return {ddeviation, dvariance, dratios, dweight,
            betas.defined() && betas.dim() == 2 ? dbias.expand(betas.sizes()) : dbias};
  }

 private:
  // From one normalizer's gamma to the next one's.
  static int64_t stride(const at::Tensor& weight) {
    return weight.defined() && weight.dim() == 2 ? weight.size(1) : 0;
  }
};

class CorrelateStep : public MixingStep {
 public:
  using MixingStep::MixingStep;

  void check(const variable_list& inputs) const override {
    const auto p = checked_pool(inputs);
    const at::Tensor& conv = inputs[2];
    if (conv.defined()) {
      MMNORM_EXPECT(conv.dim() == 2 && conv.size(0) > 0 && p.channels % conv.size(0) == 0, "conv_weight", conv,
                    "a tensor (C/r, r) for ", p.channels, " channels");
      check_floating(conv, "conv_weight", {conv.size(0), p.channels / conv.size(0)});
    }
  }

  // inputs: deviation, variance, conv_weight
  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), conv = as(inputs[2], dtype);
    const auto p = planes_of(d);
    const int64_t width = conv.defined() ? conv.size(0) : p.channels;
    const at::Tensor z = at::empty({p.samples, p.normalizers, width}, d.options());
    const at::Tensor features = at::empty({p.samples, p.normalizers * p.normalizers}, d.options());
    MMNORM_DISPATCH(dtype, "mmnorm::correlate", {
      MMNORM_CALL(correlate, pointer<T>(d), pointer<T>(v), pointer<T>(conv), p.channels / width, static_cast<T>(eps_),
                  z.data_ptr<T>(), features.data_ptr<T>(), p);
    });
    kept = {z};
    return {features};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), conv = as(inputs[2], dtype), &z = kept[0];
    check_numbers(z, "z", dtype, {d.size(1), d.size(0), conv.defined() ? conv.size(0) : d.size(2)});
    const at::Tensor dfeatures = as(gradients[0], dtype);
    const at::Tensor ddeviation = at::empty_like(d), dvariance = at::empty_like(v);
    const at::Tensor dconv = at::zeros(conv.defined() ? conv.sizes() : at::IntArrayRef({d.size(2)}), d.options());
    MMNORM_DISPATCH(dtype, "mmnorm::correlate_backward", {
      MMNORM_CALL(correlate_backward, pointer<T>(d), pointer<T>(v), pointer<T>(conv), d.size(2) / z.size(2),
                  static_cast<T>(eps_), pointer<T>(z), pointer<T>(dfeatures), ddeviation.data_ptr<T>(),
                  dvariance.data_ptr<T>(), dconv.data_ptr<T>(), planes_of(d));
    });
    return {ddeviation, dvariance, dconv};
  }
};

class RescaleStep : public MixingStep {
 public:
  using MixingStep::MixingStep;

  void check(const variable_list& inputs) const override {
    const auto p = checked_pool(inputs);
    const at::Tensor& omega = inputs[2];
    MMNORM_EXPECT(p.normalizers == 1, "deviation", inputs[0], "that of one normalizer, (1, N, C)");
    MMNORM_EXPECT(omega.defined() && omega.dim() == 2 && omega.size(1) > 0 && p.channels % omega.size(1) == 0, "omega",
                  omega, "a tensor (N, G) with a divisor of ", p.channels, " channels for G");
    check_floating(omega, "omega", {p.samples, omega.size(1)});
    check_floating(inputs[3], "beta", omega.sizes());
    check_optional(inputs[4], "weight", {p.channels});
    check_optional(inputs[5], "bias", {p.channels});
  }

  // inputs: deviation, variance, omega, beta, weight, bias
  variable_list forward(const variable_list& inputs, variable_list&) override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), o = as(inputs[2], dtype),
                     b = as(inputs[3], dtype), w = as(inputs[4], dtype), c = as(inputs[5], dtype);
    const at::Tensor scale = planes_like(d), shift = planes_like(d);
    MMNORM_DISPATCH(dtype, "mmnorm::rescale", {
      MMNORM_CALL(rescale, pointer<T>(d), pointer<T>(v), pointer<T>(o), pointer<T>(b), pointer<T>(w), pointer<T>(c),
                  static_cast<T>(eps_), scale.data_ptr<T>(), shift.data_ptr<T>(), o.size(1), planes_of(d));
    });
    return {scale, shift};
  }

  variable_list backward(const variable_list& inputs, const variable_list&,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), o = as(inputs[2], dtype),
                     w = as(inputs[4], dtype);
    const at::Tensor dscale = or_zeros(gradients[0], d), dshift = or_zeros(gradients[1], d);
    const at::Tensor ddeviation = at::empty_like(d), dvariance = at::empty_like(v), domega = at::empty_like(o),
                     dbeta = at::empty_like(o);
    const at::Tensor dweight = at::zeros({d.size(2)}, d.options()), dbias = at::zeros({d.size(2)}, d.options());
    MMNORM_DISPATCH(dtype, "mmnorm::rescale_backward", {
      MMNORM_CALL(rescale_backward, pointer<T>(d), pointer<T>(v), pointer<T>(o), pointer<T>(w), static_cast<T>(eps_),
                  pointer<T>(dscale), pointer<T>(dshift), ddeviation.data_ptr<T>(), dvariance.data_ptr<T>(),
                  domega.data_ptr<T>(), dbeta.data_ptr<T>(), dweight.data_ptr<T>(), dbias.data_ptr<T>(), o.size(1),
                  planes_of(d));
    });
    return {ddeviation, dvariance, domega, dbeta, dweight, dbias};
  }
};

}  // namespace

std::vector<at::Tensor> pool(const at::Tensor& mean, const at::Tensor& var, const OptionalTensor& batch_mean,
                             const OptionalTensor& batch_var, const std::vector<std::string>& normalizers,
                             int64_t num_groups, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                             const OptionalTensor& num_batches, Optional<double> momentum, int64_t positions,
                             py::function again) {
  Tracking tracking;
  if (running_mean.has_value()) {
    tracking = {*running_mean, *running_var, *num_batches, momentum, positions};
  }
  Tracking* tracked = running_mean.has_value() ? &tracking : nullptr;
  return run(c10::make_intrusive<PoolStep>(normalizers, num_groups, tracked, std::move(again)),
             {mean, var, batch_mean, batch_var});
}

std::vector<at::Tensor> group_moments(const at::Tensor& mean, const at::Tensor& var, int64_t groups,
                                      py::function again) {
  return run(c10::make_intrusive<GroupMomentsStep>(groups, std::move(again)), {mean, var});
}

std::vector<at::Tensor> mix_statistics(const at::Tensor& deviation, const at::Tensor& variance,
                                       const at::Tensor& ratios, const OptionalTensor& weight,
                                       const OptionalTensor& bias, double eps, py::function again) {
  return run(c10::make_intrusive<MixStatisticsStep>(eps, std::move(again)), {deviation, variance, ratios, weight, bias});
}

std::vector<at::Tensor> mix_outputs(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& ratios,
                                    const OptionalTensor& weight, const OptionalTensor& bias, double eps,
                                    py::function again) {
  return run(c10::make_intrusive<MixOutputsStep>(eps, std::move(again)), {deviation, variance, ratios, weight, bias});
}

at::Tensor correlate(const at::Tensor& deviation, const at::Tensor& variance, const OptionalTensor& conv_weight,
                     double eps, py::function again) {
  return run(c10::make_intrusive<CorrelateStep>(eps, std::move(again)), {deviation, variance, conv_weight})[0];
}

std::vector<at::Tensor> rescale(const at::Tensor& deviation, const at::Tensor& variance, const at::Tensor& omega,
                                const at::Tensor& beta, const OptionalTensor& weight, const OptionalTensor& bias,
                                double eps, py::function again) {
  return run(c10::make_intrusive<RescaleStep>(eps, std::move(again)), {deviation, variance, omega, beta, weight, bias});
}

}  // namespace mmnorm
