#include "nodes.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <tuple>
#include <utility>

#include "passes.h"
#include "step.h"

namespace mmnorm {
namespace {

namespace py = pybind11;

at::Tensor as_laid_out(const at::Tensor& dy, const at::Tensor& x) {
  const at::Tensor dense = dy.contiguous(x.is_contiguous() ? at::MemoryFormat::Contiguous
                                         : x.dim() == 4    ? at::MemoryFormat::ChannelsLast
                                                           : at::MemoryFormat::ChannelsLast3d);
  return dense.is_neg() ? dense.resolve_neg() : dense;
}

class MomentsStep : public Step {
 public:
  MomentsStep(double negative_slope, py::function again) : Step(std::move(again)), negative_slope_(negative_slope) {}

  void check(const variable_list& inputs) const override { checked_input(inputs[0]); }

  // inputs: x
  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const at::Tensor& x = inputs[0];
    const auto [mean, var] = moments(x);
    kept = {mean};
    const at::Tensor number = new_numbers({1}, var.scalar_type());
    const at::Tensor of_y = x.scalar_type() == var.scalar_type() ? number : new_numbers({1}, x.scalar_type());
    return {mean, var, new_stand_in(of_y, x.sizes()), new_stand_in(number, var.sizes()),
            new_stand_in(number, var.sizes())};
  }

  // Of the mean, the variance, and through the stand-ins: dx = scale * g + 2 / L * dvar * (x - mean) + dmean / L
  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const at::Tensor &x = inputs[0], &mean = kept[0];
    check_numbers(mean, "mean", at::kDouble, x.sizes().slice(0, 2));
    const auto positions = static_cast<double>(x.numel() / mean.numel());
    const auto or_zeros = [&](const at::Tensor& t) { return t.defined() ? t : new_zeros(mean.sizes(), at::kDouble); };
    const at::Tensor dmean = or_zeros(gradients[0]), dvar = or_zeros(gradients[1]), scale = or_zeros(gradients[3]);
    const at::Tensor dy = gradients[2].defined() ? as_laid_out(gradients[2], x) : at::zeros_like(x);
    const bool is_activated = gradients[4].defined();
    return {input_gradient(dy, x, mean, scale, is_activated ? gradients[4] : scale, dvar, dmean, 2 / positions,
                           1 / positions, is_activated ? negative_slope_ : kNoActivation)};
  }

  variable_list differentiable_backward(const variable_list& inputs, const variable_list&, const variable_list& gradients,
                                        const std::vector<bool>& needs_grad) const override {
    return again(inputs, {gradients[0], gradients[1]}, needs_grad);
  }

 private:
  double negative_slope_;
};

// inputs: x, mean, scale, shift, stand-ins of the gradients of y, of scale and of shift
class AffineStep : public Step {
 public:
  AffineStep(double negative_slope, py::function again) : Step(std::move(again)), negative_slope_(negative_slope) {}

  size_t count_needed(size_t) const override { return 4; }

  void check(const variable_list& inputs) const override {
    check_floating(inputs[2], "scale", checked_input(inputs[0]).sizes().slice(0, 2));
  }

  variable_list forward(const variable_list& inputs, variable_list&) override {
    return {affine(inputs[0], inputs[1], inputs[2], inputs[3], negative_slope_)};
  }

  variable_list backward(const variable_list& inputs, const variable_list&,
                         const variable_list& gradients) const override {
    const at::Tensor &x = inputs[0], &mean = inputs[1], &scale = inputs[2], &shift = inputs[3];
    const at::Tensor dy = as_laid_out(gradients[0], x);
    const auto [total, product_total] = plane_sums(dy, x, mean, scale, shift, negative_slope_);
    const at::Tensor to_shift = negative_slope_ == kNoActivation ? at::Tensor() : shift;
    return {at::Tensor(), mean_gradient(scale, total), product_total, total, dy, scale, to_shift};
  }

 protected:
  double negative_slope_;
};

// inputs: x, mean, scale, shift, other, stand-ins of the gradients of y and of scale
class AffineAddStep : public AffineStep {
 public:
  AffineAddStep(double negative_slope, bool is_recorded, py::function again)
      : AffineStep(negative_slope, std::move(again)), with_bits_(is_recorded && negative_slope != kNoActivation) {}

  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const auto [y, bits] =
        affine_add(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4], negative_slope_, with_bits_);
    if (with_bits_) {
      kept = {bits};
    }
    return {y};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const at::Tensor &x = inputs[0], &mean = inputs[1], &scale = inputs[2], &shift = inputs[3];
    at::Tensor dz = as_laid_out(gradients[0], x), total, product_total;
    if (with_bits_) {
      std::tie(total, product_total, dz) = plane_sums_add(dz, x, mean, kept[0], negative_slope_);
    } else {
      std::tie(total, product_total) = plane_sums(dz, x, mean, scale, shift, negative_slope_);
    }
    return {at::Tensor(), mean_gradient(scale, total), product_total, total, dz, dz, scale};
  }

  variable_list differentiable_backward(const variable_list& inputs, const variable_list& kept,
                                        const variable_list& gradients,
                                        const std::vector<bool>& needs_grad) const override {
    const at::Tensor dz = with_bits_ ? gradients[0] * slopes_of(kept[0], inputs[0], negative_slope_) : gradients[0];
    variable_list found = again(inputs, {dz}, needs_grad);
    found.push_back(dz);
    return found;
  }

 private:
  bool with_bits_;
};

variable_list run_unlocked(c10::intrusive_ptr<Step> step, const variable_list& inputs) {
  const py::gil_scoped_release no_gil;
  return run(step, inputs);
}

}  // namespace

std::vector<at::Tensor> moments_node(const at::Tensor& x, double negative_slope, py::function again) {
  return run_unlocked(c10::make_intrusive<MomentsStep>(negative_slope, std::move(again)), {x});
}

at::Tensor affine_node(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                       const OptionalTensor& other, const std::vector<at::Tensor>& stand_ins, double negative_slope,
                       py::function again) {
  TORCH_CHECK(stand_ins.size() == 3, "mmnorm: stand_ins: expected the three of moments_node, got ", stand_ins.size());
  if (!other.has_value()) {
    return run_unlocked(c10::make_intrusive<AffineStep>(negative_slope, std::move(again)),
                        {x, mean, scale, shift, stand_ins[0], stand_ins[1], stand_ins[2]})[0];
  }
  const bool is_recorded = at::GradMode::is_enabled() && (x.requires_grad() || scale.requires_grad() ||
                                                          shift.requires_grad() || other->requires_grad());
  return run_unlocked(c10::make_intrusive<AffineAddStep>(negative_slope, is_recorded, std::move(again)),
                      {x, mean, scale, shift, *other, stand_ins[0], stand_ins[1]})[0];
}

}  // namespace mmnorm
