#include "node.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>
#include <utility>

#include "passes.h"

namespace mmnorm {
namespace {

namespace py = pybind11;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the backward needs that is no tensor.
struct Layer : torch::CustomClassHolder {
  Layer(std::shared_ptr<Form> form, std::vector<bool> has_param, py::function replay)
      : form(std::move(form)), has_param(std::move(has_param)), replay(std::move(replay)) {}

  // Graphs may be freed by threads that know nothing of Python, and after its end.
  ~Layer() override {
    if (Py_IsInitialized()) {
      py::gil_scoped_acquire gil;
      replay = py::function();
    } else {
      replay.release();
    }
  }

  // The parameters as the form takes them, of those that there are: autograd's functions take no undefined tensors.
  Tensors expand(at::TensorList given) const {
    Tensors params;
    size_t next = 0;
    for (const bool has : has_param) {
      params.push_back(has ? given[next++] : at::Tensor());
    }
    return params;
  }

  std::shared_ptr<Form> form;
  std::vector<bool> has_param;
  py::function replay;
};

constexpr auto kLayer = "layer", kGiven = "given";

at::Tensor as_laid_out(const at::Tensor& dy, const at::Tensor& x) {
  return dy.contiguous(x.is_contiguous() ? at::MemoryFormat::Contiguous
                       : x.dim() == 4    ? at::MemoryFormat::ChannelsLast
                                         : at::MemoryFormat::ChannelsLast3d);
}

// Gradients of x and of the parameters, with a history of their own.
Tensors replayed(const Layer& layer, const at::Tensor& x, at::TensorList given, const AutogradContext& context,
                 const at::Tensor& dy) {
  const py::gil_scoped_acquire gil;
  std::vector<OptionalTensor> params;
  std::vector<bool> needs_grad{context.needs_input_grad(0)};
  size_t next = 0;
  for (const bool has : layer.has_param) {
    params.push_back(has ? OptionalTensor(given[next++]) : std::nullopt);
    needs_grad.push_back(has && context.needs_input_grad(next));
  }
  Tensors gradients;
  for (const auto& gradient : layer.replay(x, params, needs_grad, dy).cast<std::vector<OptionalTensor>>()) {
    gradients.push_back(gradient.value_or(at::Tensor()));
  }
  return gradients;
}

class Normalize : public torch::autograd::Function<Normalize> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const c10::intrusive_ptr<Layer>& layer,
                            at::TensorList given) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    // Operators on the small tensors go straight to their kernels.
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [mean, var] = moments(x);
    const at::Tensor center = mean.to(var.scalar_type());
    const Tensors coefficients = layer->form->forward(mean, var, center, layer->expand(given));
    const at::Tensor &scale = coefficients[0], &shift = coefficients[1];
    variable_list saved{x, center, scale};
    saved.insert(saved.end(), given.begin(), given.end());
    saved.insert(saved.end(), coefficients.begin() + 2, coefficients.end());
    context->save_for_backward(std::move(saved));
    context->saved_data[kLayer] = c10::IValue::make_capsule(layer);
    context->saved_data[kGiven] = static_cast<int64_t>(given.size());
    return affine(x, center, scale, shift);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const variable_list saved = context->get_saved_variables();
    const auto layer = c10::static_intrusive_pointer_cast<Layer>(context->saved_data[kLayer].toCapsule());
    const at::Tensor &x = saved[0], &center = saved[1], &scale = saved[2], &dy = gradients[0];
    const auto given = at::TensorList(saved).slice(3, context->saved_data[kGiven].toInt());
    // Those of mean and var come first in the coefficients' gradients, x does in those of a replay.
    Tensors found;
    at::Tensor dx;
    if (at::GradMode::is_enabled()) {
      found = replayed(*layer, x, given, *context, dy);
      dx = found[0];
      found.erase(found.begin());
    } else {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const at::Tensor laid_out = as_laid_out(dy, x);
      const auto [total, product_total] = plane_sums(laid_out, x, center);
      found = layer->form->backward(at::TensorList(saved).slice(3 + given.size()).vec(), layer->expand(given),
                                    product_total, total);
      if (context->needs_input_grad(0)) {
        const auto positions = static_cast<double>(x.numel() / center.numel());
        const at::Tensor offset = found[0].div_(positions), slope = found[1].mul_(2 / positions);
        dx = input_gradient(laid_out, x, center, scale, slope, offset);
      }
      found.erase(found.begin(), found.begin() + 2);
    }
    // The second argument is no tensor.
    variable_list result{dx, at::Tensor()};
    for (size_t i = 0; i < found.size(); ++i) {
      if (layer->has_param[i]) {
        result.push_back(found[i]);
      }
    }
    return result;
  }
};

}  // namespace

at::Tensor normalize(const at::Tensor& x, std::shared_ptr<Form> form, const std::vector<OptionalTensor>& params,
                     py::function replay) {
  std::vector<bool> has_param;
  Tensors given;
  for (const auto& param : params) {
    has_param.push_back(param.has_value());
    if (param.has_value()) {
      given.push_back(*param);
    }
  }
  const auto layer = c10::make_intrusive<Layer>(std::move(form), std::move(has_param), std::move(replay));
  const py::gil_scoped_release no_gil;
  return Normalize::apply(x, layer, at::TensorList(given));
}

}  // namespace mmnorm
