#include "step.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Type.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <mutex>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace mmnorm {
namespace {

namespace py = pybind11;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
// Shared in earlier versions of PyTorch, intrusive in later ones.
using NodePointer = decltype(torch::autograd::Edge::function);

// A node without torch::autograd::Function, whose bookkeeping takes as long as the loops over few numbers.
class StepNode : public Node {
 public:
  StepNode(c10::intrusive_ptr<Step> step, const variable_list& inputs) : step_(std::move(step)) {
    torch::autograd::edge_list edges;
    for (const auto& input : inputs) {
      edges.push_back(input.defined() ? torch::autograd::impl::gradient_edge(input) : torch::autograd::Edge());
    }
    set_next_edges(std::move(edges));
    const size_t needed = step_->count_needed(inputs.size());
    for (size_t i = 0; i < needed; ++i) {
      inputs_.emplace_back(inputs[i], false);
    }
  }

  // After the outputs have their history: one of them, held as it is, would hold the node that holds it.
  void keep(const variable_list& kept) {
    for (const auto& t : kept) {
      kept_.emplace_back(t, t.grad_fn().get() == this);
    }
  }

  std::string name() const override { return c10::demangle(typeid(*step_).name()); }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto* saved : {&inputs_, &kept_}) {
      for (auto& variable : *saved) {
        variable.reset_data();
      }
    }
  }

  variable_list apply(variable_list&& gradients) override {
    variable_list found;
    if (std::none_of(gradients.begin(), gradients.end(), [](const at::Tensor& t) { return t.defined(); })) {
      found.resize(num_outputs());
      return found;
    }
    const variable_list inputs = unpack(inputs_), kept = unpack(kept_);
    step_->check(inputs);
    if (at::GradMode::is_enabled()) {
      std::vector<bool> needs_grad;
      for (size_t i = 0; i < inputs.size(); ++i) {
        needs_grad.push_back(inputs[i].defined() && task_should_compute_output(i));
      }
      found = step_->differentiable_backward(inputs, kept, gradients, needs_grad);
    } else {
      const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      found = step_->backward(inputs, kept, gradients);
    }
    found.resize(num_outputs());
    return found;
  }

 private:
  variable_list unpack(const std::vector<SavedVariable>& saved) {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list tensors;
    tensors.reserve(saved.size());
    for (const auto& variable : saved) {
      tensors.push_back(variable.unpack(getptr()));
    }
    return tensors;
  }

  c10::intrusive_ptr<Step> step_;
  std::vector<SavedVariable> inputs_, kept_;
};

template <typename Pointer = NodePointer>
Pointer own(StepNode* node) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<Node>>) {
    // Found where it is: later versions have no function of this name.
    return Pointer(node, [](auto* owned) { deleteNode(owned); });
  } else {
    return Pointer::unsafe_steal_from_new(node);
  }
}

py::list as_list(const variable_list& tensors) {
  py::list list;
  for (const auto& tensor : tensors) {
    list.append(tensor.defined() ? py::cast(tensor) : py::none());
  }
  return list;
}

}  // namespace

Step::~Step() {
  if (Py_IsInitialized()) {
    const py::gil_scoped_acquire gil;
    again_ = py::function();
  } else {
    again_.release();
  }
}

variable_list Step::again(const variable_list& inputs, const variable_list& gradients,
                          const std::vector<bool>& needs_grad) const {
  const py::gil_scoped_acquire gil;
  variable_list found;
  for (const auto& gradient : again_(as_list(inputs), needs_grad, as_list(gradients))) {
    found.push_back(gradient.is_none() ? at::Tensor() : gradient.cast<at::Tensor>());
  }
  TORCH_CHECK(found.size() == inputs.size(), "mmnorm: again: expected ", inputs.size(), " gradients, got ",
              found.size());
  return found;
}

variable_list run(const c10::intrusive_ptr<Step>& step, const variable_list& inputs) {
  step->check(inputs);
  for (const auto& input : inputs) {
    TORCH_CHECK(!torch::autograd::isFwGradDefined(input), "mmnorm: the loops for the CPU have no forward-mode "
                "derivatives; expected tensors without, or mmnorm.set_backend('reference')");
  }
  variable_list kept, outputs;
  {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    outputs = step->forward(inputs, kept);
  }
  const auto needs_grad = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  if (at::GradMode::is_enabled() && std::any_of(inputs.begin(), inputs.end(), needs_grad)) {
    auto* node = new StepNode(step, inputs);
    const NodePointer owned = own(node);
    torch::autograd::set_history(outputs, owned);
    node->keep(kept);
  }
  return outputs;
}

}  // namespace mmnorm
