#include "coefficient_step.h"

#include <cmath>
#include <utility>

#define MMNORM_KERNELS "mixing_kernels.h"
#include "instructions.h"

namespace mmnorm {
namespace {

namespace py = pybind11;

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

// Of statistics, or of outputs: these have ratios of each sample, and may have rows of gamma and beta.
template <bool kOfOutputs>
class MixStep : public MixingStep {
 public:
  using MixingStep::MixingStep;

  void check(const variable_list& inputs) const override {
    const auto p = checked_pool(inputs);
    check_floating(inputs[2], "ratios", {kOfOutputs ? p.samples : 2, p.normalizers});
    kOfOutputs ? check_rows(inputs[3], "weight", p) : check_optional(inputs[3], "weight", {p.channels});
    kOfOutputs ? check_rows(inputs[4], "bias", p) : check_optional(inputs[4], "bias", {p.channels});
  }

  // inputs: deviation, variance, ratios, weight, bias
  variable_list forward(const variable_list& inputs, variable_list&) override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), r = as(inputs[2], dtype),
                     w = as(inputs[3], dtype), betas = as(inputs[4], dtype);
    const at::Tensor b = has_rows(betas) ? betas.sum(0) : betas;
    const at::Tensor scale = planes_like(d), shift = planes_like(d);
    MMNORM_DISPATCH(dtype, "mmnorm::mix", {
      if constexpr (kOfOutputs) {
        MMNORM_CALL(mix_outputs, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w), stride(w), pointer<T>(b),
                    static_cast<T>(eps_), scale.data_ptr<T>(), shift.data_ptr<T>(), planes_of(d));
      } else {
        MMNORM_CALL(mix_statistics, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w), pointer<T>(b),
                    static_cast<T>(eps_), scale.data_ptr<T>(), shift.data_ptr<T>(), planes_of(d));
      }
    });
    return {scale, shift};
  }

  variable_list backward(const variable_list& inputs, const variable_list&,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor d = as(inputs[0], dtype), v = as(inputs[1], dtype), r = as(inputs[2], dtype),
                     w = as(inputs[3], dtype), &betas = inputs[4];
    const at::Tensor dscale = or_zeros(gradients[0], d), dshift = or_zeros(gradients[1], d);
    const at::Tensor ddeviation = new_like(d), dvariance = new_like(v), dratios = new_like(r);
    const at::Tensor dweight = new_zeros(w.defined() ? w.sizes() : d.sizes().slice(2), dtype);
    const at::Tensor dbias = new_zeros({d.size(2)}, dtype);
    MMNORM_DISPATCH(dtype, "mmnorm::mix_backward", {
      T *dd = ddeviation.data_ptr<T>(), *dv = dvariance.data_ptr<T>(), *dr = dratios.data_ptr<T>(),
        *dw = dweight.data_ptr<T>(), *db = dbias.data_ptr<T>();
      if constexpr (kOfOutputs) {
        MMNORM_CALL(mix_outputs_backward, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w), stride(w),
                    static_cast<T>(eps_), pointer<T>(dscale), pointer<T>(dshift), dd, dv, dr, dw, db, planes_of(d));
      } else {
        MMNORM_CALL(mix_statistics_backward, pointer<T>(d), pointer<T>(v), pointer<T>(r), pointer<T>(w),
                    static_cast<T>(eps_), pointer<T>(dscale), pointer<T>(dshift), dd, dv, dr, dw, db, planes_of(d));
      }
    });
    return {ddeviation, dvariance, dratios, dweight, has_rows(betas) ? dbias.expand(betas.sizes()) : dbias};
  }

 private:
  static bool has_rows(const at::Tensor& t) { return t.defined() && t.dim() == 2; }
  // From one normalizer's gamma to the next one's.
  static int64_t stride(const at::Tensor& weight) { return has_rows(weight) ? weight.size(1) : 0; }
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
    const at::Tensor z = new_numbers({p.samples, p.normalizers, width}, dtype);
    const at::Tensor features = new_numbers({p.samples, p.normalizers * p.normalizers}, dtype);
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
    const at::Tensor ddeviation = new_like(d), dvariance = new_like(v);
    const at::Tensor dconv = new_zeros(conv.defined() ? conv.sizes() : d.sizes().slice(2), dtype);
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
    const at::Tensor ddeviation = new_like(d), dvariance = new_like(v), domega = new_like(o),
                     dbeta = new_like(o);
    const at::Tensor dweight = new_zeros({d.size(2)}, dtype), dbias = new_zeros({d.size(2)}, dtype);
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

void define_mixing(py::module_& module) {
  define_step<MixStep<false>, double>(module, "mix_statistics", std::make_index_sequence<5>());
  define_step<MixStep<true>, double>(module, "mix_outputs", std::make_index_sequence<5>());
  define_step<CorrelateStep, double>(module, "correlate", std::make_index_sequence<3>());
  define_step<RescaleStep, double>(module, "rescale", std::make_index_sequence<6>());
}

}  // namespace mmnorm
