#include "step.h"

#include <algorithm>
#include <utility>

namespace mmnorm {
namespace {

struct StepNode : torch::autograd::Function<StepNode> {
  static variable_list forward(AutogradContext* context, at::TensorList given, const c10::intrusive_ptr<Step>& step) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    variable_list saved;
    const variable_list inputs = expand(given, step->given);
    step->check(inputs);
    const variable_list outputs = step->forward(inputs, saved);
    saved.insert(saved.begin(), given.begin(), given.end());
    context->set_materialize_grads(false);
    context->save_for_backward(std::move(saved));
    keep(context, step);
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto& step = static_cast<const Step&>(kept(context));
    const variable_list saved = context->get_saved_variables();
    const variable_list inputs = expand(saved, step.given);
    step.check(inputs);
    variable_list found;
    if (at::GradMode::is_enabled()) {
      found = step.again(*context, inputs, gradients);
    } else {
      const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      const auto count = std::count(step.given.begin(), step.given.end(), true);
      found = step.backward(inputs, {saved.begin() + count, saved.end()}, gradients);
    }
    variable_list result;
    for (size_t i = 0; i < step.given.size(); ++i) {
      if (step.given[i]) {
        result.push_back(found[i]);
      }
    }
    // The step itself is no tensor.
    result.emplace_back();
    return result;
  }

 private:
  // All inputs, of the first tensors, which are those that were given: autograd's functions take no undefined ones.
  static variable_list expand(at::TensorList tensors, const std::vector<bool>& given) {
    variable_list inputs;
    size_t next = 0;
    for (const bool is_given : given) {
      inputs.push_back(is_given ? tensors[next++] : at::Tensor());
    }
    return inputs;
  }
};

}  // namespace

variable_list run(const c10::intrusive_ptr<Step>& step, std::initializer_list<OptionalTensor> inputs) {
  variable_list given;
  for (const auto& input : inputs) {
    step->given.push_back(input.has_value() && input->defined());
    if (step->given.back()) {
      given.push_back(*input);
    }
  }
  return StepNode::apply(at::TensorList(given), step);
}

}  // namespace mmnorm
