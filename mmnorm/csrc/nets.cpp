#include "step.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mmnorm {
namespace {

namespace py = pybind11;

enum class Activation { Identity, Tanh, Relu, LeakyRelu, Relu6, Sigmoid, Softmax };

Activation activation_of(const std::string& name) {
  static const std::vector<std::pair<std::string, Activation>> kNames = {
      {"identity", Activation::Identity}, {"tanh", Activation::Tanh},   {"relu", Activation::Relu},
      {"leaky_relu", Activation::LeakyRelu}, {"relu6", Activation::Relu6}, {"sigmoid", Activation::Sigmoid},
      {"softmax", Activation::Softmax}};
  for (const auto& [known, activation] : kNames) {
    if (known == name) {
      return activation;
    }
  }
  TORCH_CHECK(false, "mmnorm: activation: expected identity, tanh, relu, leaky_relu, relu6, sigmoid or softmax, got '",
              name, "'");
}

template <typename T>
T activated(Activation activation, T v) {
  switch (activation) {
    case Activation::Tanh:
      return std::tanh(v);
    case Activation::Relu:
      return v < 0 ? T(0) : v;
    case Activation::LeakyRelu:
      return v < 0 ? v * T(0.01) : v;
    case Activation::Relu6:
      return v < 0 ? T(0) : v > 6 ? T(6) : v;
    case Activation::Sigmoid:
      return T(1) / (T(1) + std::exp(-v));
    default:
      return v;
  }
}

// From the output, which tells it for each of them.
template <typename T>
T derivative(Activation activation, T y) {
  switch (activation) {
    case Activation::Tanh:
      return T(1) - y * y;
    case Activation::Relu:
      return y <= 0 ? T(0) : T(1);
    case Activation::LeakyRelu:
      return y <= 0 ? T(0.01) : T(1);
    case Activation::Relu6:
      return y <= 0 || y >= 6 ? T(0) : T(1);
    case Activation::Sigmoid:
      return y * (T(1) - y);
    default:
      return T(1);
  }
}

// In place, of rows.
void activate(const at::Tensor& values, Activation activation) {
  const int64_t rows = values.size(0), size = values.size(1);
  MMNORM_DISPATCH(values.scalar_type(), "mmnorm::activate", {
    T* v = values.data_ptr<T>();
    if (activation != Activation::Softmax) {
      std::transform(v, v + rows * size, v, [&](T value) { return activated(activation, value); });
      return;
    }
    for (int64_t row = 0; row < rows; ++row, v += size) {
      const T largest = *std::max_element(v, v + size);
      T total = 0;
      for (int64_t i = 0; i < size; ++i) {
        v[i] = std::exp(v[i] - largest);
        total += v[i];
      }
      for (int64_t i = 0; i < size; ++i) {
        v[i] /= total;
      }
    }
  });
}

// The gradient of the activation's input from that of its output, y.
at::Tensor activation_gradient(const at::Tensor& dy, const at::Tensor& y, Activation activation) {
  const int64_t rows = y.size(0), size = y.size(1);
  const at::Tensor gradient = at::empty_like(y);
  MMNORM_DISPATCH(y.scalar_type(), "mmnorm::activation_gradient", {
    const T *g = dy.const_data_ptr<T>(), *v = y.const_data_ptr<T>();
    T* out = gradient.data_ptr<T>();
    for (int64_t row = 0; row < rows; ++row, g += size, v += size, out += size) {
      T along = 0;
      for (int64_t i = 0; activation == Activation::Softmax && i < size; ++i) {
        along += g[i] * v[i];
      }
      for (int64_t i = 0; i < size; ++i) {
        out[i] = activation == Activation::Softmax ? v[i] * (g[i] - along) : g[i] * derivative(activation, v[i]);
      }
    }
  });
  return gradient;
}

class PerceptronStep : public Step {
 public:
  PerceptronStep(const std::string& hidden, const std::string& output, py::function again)
      : Step(std::move(again)), hidden_(activation_of(hidden)), output_(activation_of(output)) {}

  void check(const variable_list& inputs) const override {
    const at::Tensor &features = inputs[0], &weight1 = inputs[1], &weight2 = inputs[3];
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
    const at::Tensor hidden = layer(inputs[0], inputs[1], inputs[2], hidden_);
    const at::Tensor output = layer(hidden, inputs[3], inputs[4], output_);
    kept = {hidden, output};
    return {output};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const auto dtype = inputs[0].scalar_type();
    const at::Tensor features = as(inputs[0], dtype), w1 = as(inputs[1], dtype), w2 = as(inputs[3], dtype);
    const at::Tensor &hidden = kept[0], &output = kept[1];
    check_numbers(hidden, "hidden", dtype, {features.size(0), w1.size(0)});
    check_numbers(output, "output", dtype, {features.size(0), w2.size(0)});
    const at::Tensor second = activation_gradient(as(gradients[0], dtype), output, output_);
    const at::Tensor first = activation_gradient(at::mm(second, w2), hidden, hidden_);
    return {at::mm(first, w1), at::mm(first.t(), features), inputs[2].defined() ? first.sum(0) : at::Tensor(),
            at::mm(second.t(), hidden), inputs[4].defined() ? second.sum(0) : at::Tensor()};
  }

 private:
  static at::Tensor layer(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                          Activation activation) {
    const auto dtype = input.scalar_type();
    const at::Tensor x = as(input, dtype), w = as(weight, dtype).t();
    const at::Tensor y = bias.defined() ? at::addmm(as(bias, dtype), x, w) : at::mm(x, w);
    activate(y, activation);
    return y;
  }

  Activation hidden_, output_;
};

}  // namespace

at::Tensor perceptron(const at::Tensor& features, const at::Tensor& weight1, const OptionalTensor& bias1,
                      const at::Tensor& weight2, const OptionalTensor& bias2, const std::string& hidden,
                      const std::string& output, py::function again) {
  return run(c10::make_intrusive<PerceptronStep>(hidden, output, std::move(again)),
             {features, weight1, bias1, weight2, bias2})[0];
}

}  // namespace mmnorm
