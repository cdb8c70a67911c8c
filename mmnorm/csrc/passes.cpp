#include "passes.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "memory.h"

namespace mmnorm {

void core::parallel_for(int64_t size, int64_t grain, const Part& part) { at::parallel_for(0, size, grain, part); }

namespace {

core::Shape shape_of(const at::Tensor& x) {
  const int64_t samples = checked_input(x).size(0), channels = x.size(1);
  return {samples, channels, x.numel() / (samples * channels), x.is_contiguous()};
}

core::Type type_of(const at::Tensor& t) {
  return t.scalar_type() == at::kDouble  ? core::Type::Double
         : t.scalar_type() == at::kFloat ? core::Type::Float
                                         : core::Type::Bfloat16;
}

at::ScalarType accumulation_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A number for each plane of x.
void check_planes(const at::Tensor& t, const char* name, const core::Shape& shape) {
  check_floating(t, name, {shape.samples, shape.channels});
}

void check_mean(const at::Tensor& mean, const core::Shape& shape) {
  check_numbers(mean, "mean", at::kDouble, {shape.samples, shape.channels});
}

void check_affine(const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift, const core::Shape& shape) {
  check_mean(mean, shape);
  check_planes(scale, "scale", shape);
  check_planes(shift, "shift", shape);
}

// Another tensor of values, such as the gradient of the output.
void check_laid_out(const at::Tensor& t, const char* name, const at::Tensor& x) {
  MMNORM_EXPECT(is_dense_cpu(t) && !t.is_neg() && t.scalar_type() == x.scalar_type() && t.sizes() == x.sizes() &&
                    (x.is_contiguous() ? t.is_contiguous() : is_channels_last(t)),
                name, t, "a tensor of the shape, type and memory format of x (", describe(x), ")");
}

// Numbers of planes that lie one after another, in a type that the passes read.
class PlaneNumbers {
 public:
  explicit PlaneNumbers(const at::Tensor& t)
      : tensor_(t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble ? t : t.to(at::kDouble)) {
    if (!tensor_.is_contiguous() || tensor_.is_neg()) {
      tensor_ = tensor_.contiguous().resolve_neg();
    }
  }

  operator core::Numbers() const { return {tensor_.const_data_ptr(), type_of(tensor_)}; }

 private:
  at::Tensor tensor_;
};

}  // namespace

std::string instructions() { return core::instructions(); }

std::tuple<at::Tensor, at::Tensor> moments(const at::Tensor& x) {
  const core::Shape shape = shape_of(x);
  at::Tensor mean = new_numbers({shape.samples, shape.channels}, at::kDouble);
  at::Tensor var = new_numbers(mean.sizes(), accumulation_type(x));
  core::moments(shape, type_of(x), x.const_data_ptr(), mean.data_ptr<double>(), var.data_ptr());
  return {mean, var};
}

at::Tensor affine(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                  double negative_slope) {
  const core::Shape shape = shape_of(x);
  check_affine(mean, scale, shift, shape);
  at::Tensor y = at::empty_like(x);
  core::affine(shape, type_of(x), x.const_data_ptr(), mean.const_data_ptr<double>(), PlaneNumbers(scale),
               PlaneNumbers(shift), negative_slope, y.data_ptr());
  return y;
}

std::tuple<at::Tensor, at::Tensor> affine_add(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                                              const at::Tensor& shift, const at::Tensor& other, double negative_slope,
                                              bool with_bits) {
  const core::Shape shape = shape_of(x);
  check_affine(mean, scale, shift, shape);
  check_laid_out(other, "other", x);
  at::Tensor y = at::empty_like(x), bits;
  if (with_bits) {
    bits = new_numbers({shape.rows(), core::bit_bytes(shape, type_of(x))}, at::kByte);
  }
  core::affine_add(shape, type_of(x), x.const_data_ptr(), mean.const_data_ptr<double>(), PlaneNumbers(scale),
                   PlaneNumbers(shift), other.const_data_ptr(), negative_slope, y.data_ptr(),
                   with_bits ? bits.data_ptr<uint8_t>() : nullptr);
  return {y, bits};
}

std::tuple<at::Tensor, at::Tensor> plane_sums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                                              const at::Tensor& scale, const at::Tensor& shift, double negative_slope) {
  const core::Shape shape = shape_of(x);
  check_laid_out(dy, "dy", x);
  check_affine(mean, scale, shift, shape);
  at::Tensor total = new_numbers(mean.sizes(), accumulation_type(x)), product = new_like(total);
  core::plane_sums(shape, type_of(x), dy.const_data_ptr(), x.const_data_ptr(), mean.const_data_ptr<double>(),
                   PlaneNumbers(scale), PlaneNumbers(shift), negative_slope, total.data_ptr(), product.data_ptr());
  return {total, product};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plane_sums_add(const at::Tensor& dy, const at::Tensor& x,
                                                              const at::Tensor& mean, const at::Tensor& bits,
                                                              double negative_slope) {
  const core::Shape shape = shape_of(x);
  check_laid_out(dy, "dy", x);
  check_mean(mean, shape);
  check_numbers(bits, "bits", at::kByte, {shape.rows(), core::bit_bytes(shape, type_of(x))});
  at::Tensor total = new_numbers(mean.sizes(), accumulation_type(x)), product = new_like(total);
  at::Tensor dz = at::empty_like(x);
  core::plane_sums_add(shape, type_of(x), dy.const_data_ptr(), x.const_data_ptr(), mean.const_data_ptr<double>(),
                       bits.const_data_ptr<uint8_t>(), negative_slope, total.data_ptr(), product.data_ptr(),
                       dz.data_ptr());
  return {total, product, dz};
}

at::Tensor slopes_of(const at::Tensor& bits, const at::Tensor& x, double negative_slope) {
  const core::Shape shape = shape_of(x);
  check_numbers(bits, "bits", at::kByte, {shape.rows(), core::bit_bytes(shape, type_of(x))});
  at::Tensor slopes = at::empty_like(x);
  core::slopes_of(shape, type_of(x), bits.const_data_ptr<uint8_t>(), negative_slope, slopes.data_ptr());
  return slopes;
}

at::Tensor mean_gradient(const at::Tensor& scale, const at::Tensor& total) {
  at::Tensor result = new_numbers(total.sizes(), at::kDouble);
  core::mean_gradient(PlaneNumbers(scale), PlaneNumbers(total), result.data_ptr<double>(), total.numel());
  return result;
}

at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& shift, const at::Tensor& slope, const at::Tensor& offset,
                          double slope_factor, double offset_factor, double negative_slope) {
  const core::Shape shape = shape_of(x);
  check_laid_out(dy, "dy", x);
  check_affine(mean, scale, shift, shape);
  check_planes(slope, "slope", shape);
  check_planes(offset, "offset", shape);
  at::Tensor dx = at::empty_like(x);
  core::input_gradient(shape, type_of(x), dy.const_data_ptr(), x.const_data_ptr(), mean.const_data_ptr<double>(),
                       PlaneNumbers(scale), PlaneNumbers(shift), PlaneNumbers(slope), PlaneNumbers(offset), slope_factor,
                       offset_factor, negative_slope, dx.data_ptr());
  return dx;
}

}  // namespace mmnorm
