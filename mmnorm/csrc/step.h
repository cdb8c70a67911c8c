// What a layer does to tensors on the CPU, step by step, as nodes of autograd.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/pybind.h>

#include <utility>
#include <vector>

#include "checks.h"
#include "memory.h"
#include "optional.h"

namespace mmnorm {

using torch::autograd::variable_list;

// A function of tensors with a backward of its own, which a node of autograd keeps. Inputs that are left out are undefined.
//
// Its backward is made of loops that cannot be differentiated. Where that is asked for, Python computes it by plain
// operators instead: `again(inputs, needs_grad, gradients)` of mmnorm/ops/again.py.
class Step : public c10::intrusive_ptr_target {
 public:
  explicit Step(pybind11::function again) : again_(std::move(again)) {}
  // Maybe in a thread that knows nothing of Python.
  ~Step() override;

  // Refuses what the loops cannot read; also in the backward, as what is saved may pass through hooks.
  virtual void check(const variable_list& inputs) const = 0;
  // `kept` is what the backward needs besides the inputs.
  virtual variable_list forward(const variable_list& inputs, variable_list& kept) = 0;
  // Gradients that nothing sends back are undefined, as may be those of inputs that are left out, and of the last.
  virtual variable_list backward(const variable_list& inputs, const variable_list& kept,
                                 const variable_list& gradients) const = 0;
  // The same, with a history.
  virtual variable_list differentiable_backward(const variable_list& inputs, const variable_list&,
                                                const variable_list& gradients, const std::vector<bool>& needs_grad) const {
    return again(inputs, gradients, needs_grad);
  }
  // How many of the inputs, the first, the backward needs. check() is given these then.
  virtual size_t count_needed(size_t inputs) const { return inputs; }

 protected:
  variable_list again(const variable_list& inputs, const variable_list& gradients,
                      const std::vector<bool>& needs_grad) const;

 private:
  pybind11::function again_;
};

// The step, recorded.
variable_list run(const c10::intrusive_ptr<Step>& step, const variable_list& inputs);

}  // namespace mmnorm
