#include "nodes.h"

#include <ATen/ATen.h>

#include <tuple>
#include <utility>

#include "again.h"
#include "checks.h"
#include "passes.h"

namespace mmnorm {
namespace {

namespace py = pybind11;

at::Tensor as_laid_out(const at::Tensor& dy, const at::Tensor& x) {
  const at::Tensor dense = dy.contiguous(x.is_contiguous() ? at::MemoryFormat::Contiguous
                                         : x.dim() == 4    ? at::MemoryFormat::ChannelsLast
                                                           : at::MemoryFormat::ChannelsLast3d);
  return dense.is_neg() ? dense.resolve_neg() : dense;
}

// What the affine form sends to the mean, -scale * total: in double, as the mean is.
at::Tensor mean_gradient(const at::Tensor& scale, const at::Tensor& total) {
  return at::mul(scale, total).neg_().to(at::kDouble);
}

struct MomentsNode : torch::autograd::Function<MomentsNode> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, c10::intrusive_ptr<Again> again) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [mean, var] = moments(x);
    context->set_materialize_grads(false);
    context->save_for_backward({x, mean});
    keep(context, std::move(again));
    // Without memory of their own.
    return {mean, var, at::empty({1}, x.options()).expand(x.sizes()), at::empty({1}, var.options()).expand(var.sizes())};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = checked_input(saved[0]), &mean = saved[1];
    check_numbers(mean, "mean", at::kDouble, x.sizes().slice(0, 2));
    if (at::GradMode::is_enabled()) {
      variable_list found = kept(context).again(*context, {x}, {gradients[0], gradients[1]});
      found.resize(2);
      return found;
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    // Of the mean, the variance, and through the stand-ins: dx = scale * dy + 2 / L * dvar * (x - mean) + dmean / L
    const auto positions = static_cast<double>(x.numel() / mean.numel());
    const auto factor_of = [&](const at::Tensor& gradient, double factor) {
      return gradient.defined() ? at::mul(gradient, factor) : at::zeros_like(mean);
    };
    const at::Tensor offset = factor_of(gradients[0], 1 / positions), slope = factor_of(gradients[1], 2 / positions);
    const at::Tensor scale = gradients[3].defined() ? gradients[3] : at::zeros_like(mean);
    const at::Tensor dy = gradients[2].defined() ? as_laid_out(gradients[2], x) : at::zeros_like(x);
    return {input_gradient(dy, x, mean, scale, slope, offset), at::Tensor()};
  }
};

struct AffineNode : torch::autograd::Function<AffineNode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& mean,
                            const at::Tensor& scale, const at::Tensor& shift, const at::Tensor& dy_stand_in,
                            const at::Tensor& scale_stand_in, c10::intrusive_ptr<Again> again) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({x, mean, scale, shift});
    keep(context, std::move(again));
    return affine(x, mean, scale, shift);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = checked_input(saved[0]), &mean = saved[1], &scale = saved[2];
    check_floating(scale, "scale", x.sizes().slice(0, 2));
    if (at::GradMode::is_enabled()) {
      variable_list found = kept(context).again(*context, saved, gradients);
      found.resize(7);
      return found;
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor dy = as_laid_out(gradients[0], x);
    const auto [total, product_total] = plane_sums(dy, x, mean);
    return {at::Tensor(), mean_gradient(scale, total), product_total, total, dy, scale, at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> moments_node(const at::Tensor& x, py::function again) {
  auto kept = c10::make_intrusive<Again>(std::move(again));
  const py::gil_scoped_release no_gil;
  return MomentsNode::apply(x, std::move(kept));
}

at::Tensor affine_node(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                       const at::Tensor& dy_stand_in, const at::Tensor& scale_stand_in, py::function again) {
  auto kept = c10::make_intrusive<Again>(std::move(again));
  const py::gil_scoped_release no_gil;
  return AffineNode::apply(x, mean, scale, shift, dy_stand_in, scale_stand_in, std::move(kept));
}

}  // namespace mmnorm
