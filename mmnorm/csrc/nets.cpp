#include "coefficient_step.h"

#include <algorithm>
#include <map>
#include <utility>

#define MMNORM_KERNELS "net_kernels.h"
#include "instructions.h"

namespace mmnorm {
namespace {

namespace py = pybind11;
using at::Tensor;

// An activation, and the gradient of its input from those of its output and the output, which tells it for each of these.
struct Activation {
  Tensor (*forward)(const Tensor& t);
  Tensor (*backward)(const Tensor& dy, const Tensor& y);
};

const Activation& activation_of(const std::string& name) {
  static const std::map<std::string, Activation> kActivations = {
      {"identity", {[](const Tensor& t) { return t; }, [](const Tensor& dy, const Tensor&) { return dy; }}},
      {"tanh", {at::tanh, at::tanh_backward}},
      {"sigmoid", {at::sigmoid, at::sigmoid_backward}},
      {"relu", {at::relu, [](const Tensor& dy, const Tensor& y) { return at::threshold_backward(dy, y, 0); }}},
      {"leaky_relu",
       {[](const Tensor& t) { return at::leaky_relu(t, 0.01); },
        [](const Tensor& dy, const Tensor& y) { return at::leaky_relu_backward(dy, y, 0.01, true); }}},
      {"relu6",
       {[](const Tensor& t) { return at::hardtanh(t, 0, 6); },
        [](const Tensor& dy, const Tensor& y) { return at::hardtanh_backward(dy, y, 0, 6); }}},
      {"softmax",
       {[](const Tensor& t) { return at::softmax(t, 1); },
        [](const Tensor& dy, const Tensor& y) { return at::_softmax_backward_data(dy, y, 1, y.scalar_type()); }}}};
  const auto found = kActivations.find(name);
  TORCH_CHECK(found != kActivations.end(),
              "mmnorm: activation: expected identity, tanh, sigmoid, relu, leaky_relu, relu6 or softmax, got '", name, "'");
  return found->second;
}

class PerceptronStep : public Step {
 public:
  PerceptronStep(const std::string& hidden, const std::string& output, py::function again)
      : Step(std::move(again)), hidden_(activation_of(hidden)), output_(activation_of(output)) {}

  void check(const variable_list& inputs) const override {
    const Tensor &features = inputs[0], &weight1 = inputs[1], &weight2 = inputs[3];
    check_moments(features, "features", 2);
    MMNORM_EXPECT(weight1.defined() && weight1.dim() == 2 && weight1.size(0) > 0, "weight1", weight1, "a matrix");
    MMNORM_EXPECT(weight2.defined() && weight2.dim() == 2 && weight2.size(0) > 0, "weight2", weight2, "a matrix");
    check_floating(weight1, "weight1", {weight1.size(0), features.size(1)});
    check_floating(weight2, "weight2", {weight2.size(0), weight1.size(0)});
    check_optional(inputs[2], "bias1", {weight1.size(0)});
    check_optional(inputs[4], "bias2", {weight2.size(0)});
  }

  // inputs: features, weight1, bias1, weight2, bias2
  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const Tensor hidden = hidden_.forward(linear(inputs[0], inputs[1], inputs[2]));
    const Tensor output = output_.forward(linear(hidden, inputs[3], inputs[4]));
    kept = {hidden, output};
    return {output};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const Tensor features = as(inputs[0], dtype), w1 = as(inputs[1], dtype), w2 = as(inputs[3], dtype);
    const Tensor &hidden = kept[0], &output = kept[1];
    check_numbers(hidden, "hidden", dtype, {features.size(0), w1.size(0)});
    check_numbers(output, "output", dtype, {features.size(0), w2.size(0)});
    const variable_list second = linear_backward(output_.backward(as(gradients[0], dtype), output), hidden, w2);
    const variable_list first = linear_backward(hidden_.backward(second[0], hidden), features, w1);
    return {first[0], first[1], first[2], second[1], second[2]};
  }

 private:
  static Tensor linear(const Tensor& input, const Tensor& weight, const Tensor& bias) {
    const auto dtype = input.scalar_type();
    const Tensor x = as(input, dtype), w = as(weight, dtype), b = as(bias, dtype);
    const Tensor y = new_numbers({x.size(0), w.size(0)}, dtype);
    MMNORM_DISPATCH(dtype, "mmnorm::linear", {
      MMNORM_CALL(linear, pointer<T>(x), pointer<T>(w), pointer<T>(b), y.data_ptr<T>(), x.size(0), w.size(1), w.size(0));
    });
    return y;
  }

  // The gradients of input, weight and bias.
  static variable_list linear_backward(const Tensor& gradient, const Tensor& x, const Tensor& w) {
    const Tensor dy = as(gradient, x.scalar_type());
    const Tensor dx = new_like(x), dw = new_like(w), db = new_numbers({w.size(0)}, w.scalar_type());
    MMNORM_DISPATCH(x.scalar_type(), "mmnorm::linear_backward", {
      MMNORM_CALL(linear_backward, pointer<T>(dy), pointer<T>(x), pointer<T>(w), dx.data_ptr<T>(), dw.data_ptr<T>(),
                  db.data_ptr<T>(), x.size(0), w.size(1), w.size(0));
    });
    return {dx, dw, db};
  }

  const Activation &hidden_, &output_;
};

}  // namespace

void define_nets(py::module_& module) {
  define_step<PerceptronStep, std::string, std::string>(module, "perceptron", std::make_index_sequence<5>());
}

}  // namespace mmnorm
