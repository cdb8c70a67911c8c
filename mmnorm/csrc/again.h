// Gradients of gradients: the nodes of autograd here compute theirs by loops that cannot be differentiated. Where that is
// asked for, Python computes them by plain operators instead.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

#include "optional.h"

namespace mmnorm {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A Python function that is called as again(inputs, needs_grad, gradients) and returns the gradients of the inputs, with
// a history of their own; mmnorm/ops/again.py makes them. It may be freed by threads that know nothing of Python.
class Again : public torch::CustomClassHolder {
 public:
  explicit Again(pybind11::function function) : function_(std::move(function)) {}
  ~Again() override;

  variable_list operator()(const AutogradContext& context, const variable_list& inputs,
                           const variable_list& gradients) const;

 private:
  pybind11::function function_;
};

// Keeps `function` with a node, and gets it back in its backward.
void keep(AutogradContext* context, pybind11::function function);
const Again& kept(AutogradContext* context);

}  // namespace mmnorm
