#include "coefficient_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace mmnorm {
namespace {

namespace py = pybind11;

// A point of the simplex, of K numbers, and the derivatives of each after each of z.
void nearest_point(const double* z, double radius, double eps, double* p, double* derivatives, int64_t size) {
  std::vector<int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return z[i] > z[j]; });
  const double rounding = eps * (z[order.front()] - z[order.back()]);
  std::vector<double> d(size);
  double length = 0, stretch = 1;
  bool is_inside = false;
  int64_t m = size;
  // The largest face, of the m largest, on which the point is, where need be pushed to the sphere's surface.
  for (; m > 1; --m) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < m; ++i) {
      mean += z[order[i]] / m;
    }
    for (int64_t i = 0; i < m; ++i) {
      d[i] = z[order[i]] - mean;
      square += d[i] * d[i];
    }
    length = std::sqrt(square);
    const double face_radius = std::sqrt(std::max(0.0, radius * radius - 1.0 / m + 1.0 / size));
    // The center of the face has no direction to go.
    is_inside = length < face_radius && length > rounding;
    stretch = is_inside ? face_radius / length : 1;
    if (is_inside ? length / m + face_radius * d[m - 1] > rounding : 1.0 / m + d[m - 1] > 0) {
      break;
    }
  }
  std::fill_n(p, size, 0.0);
  std::fill_n(derivatives, size * size, 0.0);
  if (m <= 1) {
    p[order[0]] = 1;
    return;
  }
  for (int64_t i = 0; i < m; ++i) {
    p[order[i]] = 1.0 / m + stretch * d[i];
    for (int64_t j = 0; j < m; ++j) {
      const double along = is_inside ? d[i] * d[j] / (length * length) : 0;
      derivatives[order[i] * size + order[j]] = stretch * ((i == j) - 1.0 / m - along);
    }
  }
}

class SparsestmaxStep : public Step {
 public:
  using Step::Step;

  void check(const variable_list& inputs) const override {
    const at::Tensor &z = inputs[0], &radius = inputs[1];
    check_moments(z, "z", 2);
    MMNORM_EXPECT(is_dense_cpu(radius) && at::isFloatingType(radius.scalar_type()) && radius.numel() == 1, "radius",
                  radius, "a floating-point number on the CPU");
  }

  // inputs: z, radius
  variable_list forward(const variable_list& inputs, variable_list& kept) override {
    const at::Tensor z = as(inputs[0], at::kDouble), p = new_like(z);
    const int64_t rows = z.size(0), size = z.size(1);
    const at::Tensor derivatives = new_numbers({rows, size, size}, at::kDouble);
    const auto eps = inputs[0].scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                                            : static_cast<double>(std::numeric_limits<float>::epsilon());
    for (int64_t row = 0; row < rows; ++row) {
      nearest_point(z.const_data_ptr<double>() + row * size, inputs[1].item<double>(), 10 * eps,
                    p.data_ptr<double>() + row * size, derivatives.data_ptr<double>() + row * size * size, size);
    }
    kept = {derivatives};
    return {as(p, inputs[0].scalar_type())};
  }

  variable_list backward(const variable_list& inputs, const variable_list& kept,
                         const variable_list& gradients) const override {
    const int64_t rows = inputs[0].size(0), size = inputs[0].size(1);
    check_numbers(kept[0], "derivatives", at::kDouble, {rows, size, size});
    const at::Tensor dp = as(gradients[0], at::kDouble);
    return {as(at::bmm(kept[0], dp.unsqueeze(2)).squeeze(2), inputs[0].scalar_type()), at::Tensor()};
  }
};

}  // namespace

void define_sparsestmax(py::module_& module) {
  define_step<SparsestmaxStep>(module, "sparsestmax", std::make_index_sequence<2>());
}

}  // namespace mmnorm
