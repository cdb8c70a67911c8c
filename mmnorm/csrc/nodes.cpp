#include "nodes.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "again.h"
#include "checks.h"
#include "passes.h"

namespace mmnorm {
namespace {

namespace py = pybind11;

constexpr auto kSlope = "negative_slope";

at::Tensor as_laid_out(const at::Tensor& dy, const at::Tensor& x) {
  const at::Tensor dense = dy.contiguous(x.is_contiguous() ? at::MemoryFormat::Contiguous
                                         : x.dim() == 4    ? at::MemoryFormat::ChannelsLast
                                                           : at::MemoryFormat::ChannelsLast3d);
  return dense.is_neg() ? dense.resolve_neg() : dense;
}

// Of a shape, without memory of its own.
at::Tensor stand_in(const at::Tensor& number, at::IntArrayRef sizes) {
  return number.as_strided(sizes, std::vector<int64_t>(sizes.size(), 0));
}

struct MomentsNode : torch::autograd::Function<MomentsNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, double negative_slope,
                               c10::intrusive_ptr<Again> again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [mean, var] = moments(x);
    context->set_materialize_grads(false);
    context->save_for_backward({x, mean});
    context->saved_data[kSlope] = negative_slope;
    keep(context, std::move(again));
    const at::Tensor number = at::empty({1}, var.options());
    const at::Tensor of_y = x.scalar_type() == var.scalar_type() ? number : at::empty({1}, x.options());
    return {mean, var, stand_in(of_y, x.sizes()), stand_in(number, var.sizes()), stand_in(number, var.sizes())};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = checked_input(saved[0]), &mean = saved[1];
    check_numbers(mean, "mean", at::kDouble, x.sizes().slice(0, 2));
    if (at::GradMode::is_enabled()) {
      variable_list found = kept(context).again(*context, {x}, {gradients[0], gradients[1]});
      found.resize(3);
      return found;
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    // Of the mean, the variance, and through the stand-ins: dx = scale * g + 2 / L * dvar * (x - mean) + dmean / L
    const auto positions = static_cast<double>(x.numel() / mean.numel());
    const auto or_zeros = [&](const at::Tensor& t) { return t.defined() ? t : at::zeros_like(mean); };
    const at::Tensor dmean = or_zeros(gradients[0]), dvar = or_zeros(gradients[1]), scale = or_zeros(gradients[3]);
    const at::Tensor dy = gradients[2].defined() ? as_laid_out(gradients[2], x) : at::zeros_like(x);
    const double negative_slope = gradients[4].defined() ? context->saved_data[kSlope].toDouble() : kNoActivation;
    const at::Tensor shift = gradients[4].defined() ? gradients[4] : scale;
    return {input_gradient(dy, x, mean, scale, shift, dvar, dmean, 2 / positions, 1 / positions, negative_slope),
            at::Tensor(), at::Tensor()};
  }
};

struct AffineNode : torch::autograd::Function<AffineNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& mean,
                            const at::Tensor& scale, const at::Tensor& shift, const at::Tensor& dy_stand_in,
                            const at::Tensor& scale_stand_in, const at::Tensor& shift_stand_in, double negative_slope,
                            c10::intrusive_ptr<Again> again) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, mean, scale, shift});
    context->saved_data[kSlope] = negative_slope;
    keep(context, std::move(again));
    return affine(x, mean, scale, shift, negative_slope);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = checked_input(saved[0]), &mean = saved[1], &scale = saved[2], &shift = saved[3];
    const double negative_slope = context->saved_data[kSlope].toDouble();
    check_floating(scale, "scale", x.sizes().slice(0, 2));
    if (at::GradMode::is_enabled()) {
      variable_list found = kept(context).again(*context, saved, gradients);
      found.resize(9);
      return found;
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor dy = as_laid_out(gradients[0], x);
    const auto [total, product_total] = plane_sums(dy, x, mean, scale, shift, negative_slope);
    return {at::Tensor(), mean_gradient(scale, total), product_total, total, dy, scale,
            negative_slope == kNoActivation ? at::Tensor() : shift, at::Tensor(), at::Tensor()};
  }
};

struct AffineAddNode : torch::autograd::Function<AffineAddNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& mean,
                            const at::Tensor& scale, const at::Tensor& shift, const at::Tensor& other,
                            const at::Tensor& dy_stand_in, const at::Tensor& scale_stand_in, double negative_slope,
                            bool is_recorded, c10::intrusive_ptr<Again> again) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const bool with_bits = is_recorded && negative_slope != kNoActivation;
    const auto [y, bits] = affine_add(x, mean, scale, shift, other, negative_slope, with_bits);
    context->save_for_backward(with_bits ? variable_list{x, mean, scale, shift, bits}
                                         : variable_list{x, mean, scale, shift});
    context->saved_data[kSlope] = negative_slope;
    keep(context, std::move(again));
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    variable_list saved = context->get_saved_variables();
    const at::Tensor &x = checked_input(saved[0]), &mean = saved[1], &scale = saved[2], &shift = saved[3];
    const double negative_slope = context->saved_data[kSlope].toDouble();
    const bool with_bits = negative_slope != kNoActivation;
    check_floating(scale, "scale", x.sizes().slice(0, 2));
    at::Tensor dz = gradients[0];
    if (at::GradMode::is_enabled()) {
      if (with_bits) {
        dz = dz * slopes_of(saved[4], x, negative_slope);
        saved.pop_back();
      }
      variable_list found = kept(context).again(*context, saved, {dz});
      found.push_back(dz);
      found.resize(10);
      return found;
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    dz = as_laid_out(dz, x);
    at::Tensor total, product_total;
    if (with_bits) {
      std::tie(total, product_total, dz) = plane_sums_add(dz, x, mean, saved[4], negative_slope);
    } else {
      std::tie(total, product_total) = plane_sums(dz, x, mean, scale, shift, negative_slope);
    }
    return {at::Tensor(), mean_gradient(scale, total), product_total, total, dz, dz, scale, at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> moments_node(const at::Tensor& x, double negative_slope, py::function again) {
  auto kept = c10::make_intrusive<Again>(std::move(again));
  const py::gil_scoped_release no_gil;
  return MomentsNode::apply(x, negative_slope, std::move(kept));
}

at::Tensor affine_node(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                       const OptionalTensor& other, const std::vector<at::Tensor>& stand_ins, double negative_slope,
                       py::function again) {
  TORCH_CHECK(stand_ins.size() == 3, "mmnorm: stand_ins: expected the three of moments_node, got ", stand_ins.size());
  auto kept = c10::make_intrusive<Again>(std::move(again));
  const py::gil_scoped_release no_gil;
  if (!other.has_value()) {
    return AffineNode::apply(x, mean, scale, shift, stand_ins[0], stand_ins[1], stand_ins[2], negative_slope,
                             std::move(kept));
  }
  const bool is_recorded = at::GradMode::is_enabled() && (x.requires_grad() || scale.requires_grad() ||
                                                          shift.requires_grad() || other->requires_grad());
  return AffineAddNode::apply(x, mean, scale, shift, *other, stand_ins[0], stand_ins[1], negative_slope, is_recorded,
                              std::move(kept));
}

}  // namespace mmnorm
