// Gradients of gradients: the nodes of autograd here compute theirs by loops that cannot be differentiated. Where that is
// asked for, Python computes them by plain operators instead.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/pybind.h>

#include <utility>

namespace mmnorm {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What a node keeps that is no tensor: a Python function, called as again(inputs, needs_grad, gradients), that returns
// the gradients of the inputs with a history of their own; mmnorm/ops/again.py makes it. It may be freed by threads that
// know nothing of Python.
class Again : public torch::CustomClassHolder {
 public:
  explicit Again(pybind11::function function) : function_(std::move(function)) {}
  ~Again() override;

  // Inputs that are undefined were not given to the node.
  variable_list again(const AutogradContext& context, const variable_list& inputs,
                      const variable_list& gradients) const;

 private:
  pybind11::function function_;
};

// Lets a node keep something, and gets it back in its backward; the context holds it as long as the node lives.
void keep(AutogradContext* context, c10::intrusive_ptr<Again> again);
const Again& kept(AutogradContext* context);

}  // namespace mmnorm
