#include "again.h"

#include <utility>

namespace mmnorm {
namespace {

namespace py = pybind11;

constexpr auto kAgain = "again";

py::list as_list(const variable_list& tensors) {
  py::list list;
  for (const auto& tensor : tensors) {
    list.append(tensor.defined() ? py::cast(tensor) : py::none());
  }
  return list;
}

}  // namespace

Again::~Again() {
  if (Py_IsInitialized()) {
    const py::gil_scoped_acquire gil;
    function_ = py::function();
  } else {
    function_.release();
  }
}

variable_list Again::again(const AutogradContext& context, const variable_list& inputs,
                           const variable_list& gradients) const {
  const py::gil_scoped_acquire gil;
  py::list needs_grad;
  size_t edge = 0;
  for (const auto& input : inputs) {
    needs_grad.append(input.defined() && context.needs_input_grad(edge));
    edge += input.defined();
  }
  variable_list found;
  for (const auto& gradient : function_(as_list(inputs), needs_grad, as_list(gradients))) {
    found.push_back(gradient.is_none() ? at::Tensor() : gradient.cast<at::Tensor>());
  }
  TORCH_CHECK(found.size() == inputs.size(), "mmnorm: again: expected ", inputs.size(), " gradients, got ",
              found.size());
  return found;
}

void keep(AutogradContext* context, c10::intrusive_ptr<Again> again) {
  context->saved_data[kAgain] = c10::IValue::make_capsule(std::move(again));
}

const Again& kept(AutogradContext* context) {
  return *static_cast<Again*>(context->saved_data[kAgain].toCapsule().get());
}

}  // namespace mmnorm
