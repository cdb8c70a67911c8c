#include "passes.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <type_traits>

#include "checks.h"

namespace mmnorm {

// How far the mean may be from the value that was subtracted, squared and over the variance, for the variance to be
// taken as a difference of squares.
constexpr double kFar = 16;

// Channels of channels_last rows that are taken at a time: their sums stay in the fastest cache, and each row is read in
// long pieces.
constexpr int64_t kTile = 512;

}  // namespace mmnorm

#define MMNORM_KERNELS "number_kernels.h"
#include "instructions.h"
#define MMNORM_KERNELS "pass_kernels.h"
#include "instructions.h"

namespace mmnorm {
namespace {

// That of the first processor; 32 MiB where the system does not say. (sysconf gives the sum of all caches on some.)
int64_t last_cache_bytes() {
  int64_t kibibytes = 0;
  std::ifstream("/sys/devices/system/cpu/cpu0/cache/index3/size") >> kibibytes;
  return (kibibytes > 0 ? kibibytes : 32 << 10) << 10;
}

// The types in memory, each with the type A that is computed in.
#define MMNORM_DISPATCH(x, name, ...)                                                              \
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, (x).scalar_type(), name, [&] {                     \
    using A = at::opmath_type<scalar_t>;                                                           \
    __VA_ARGS__;                                                                                   \
  })

// Of the processor's last cache.
const int64_t kCacheBytes = last_cache_bytes();

// Values that a thread should have to do at least.
constexpr int64_t kGrain = 1 << 14;

struct Shape {
  explicit Shape(const at::Tensor& x)
      : samples(checked_input(x).size(0)),
        channels(x.size(1)),
        length(x.numel() / (samples * channels)),
        // A channels_last tensor that is contiguous too is either; planes of one value are best taken as rows.
        contiguous(x.is_contiguous() && !(length == 1 && channels > 1)) {}

  int64_t planes() const { return samples * channels; }
  // Neighbouring values: of a plane, or of the channels of a position.
  int64_t rows() const { return contiguous ? planes() : samples * length; }
  // Pieces that the rows of a sample are summed in. Their number depends on the shape alone, for the results' sake.
  int64_t pieces() const {
    return std::min((length + 63) / 64, std::max<int64_t>(1, (64 + samples - 1) / samples));
  }

  // Whether rows of so many tensors like x are best taken some at a time, or in pieces. Where the tensors come from
  // memory, to read them in its order is worth more: with two of them up to a third of the time.
  bool in_cache(int64_t tensors, int64_t element_size) const {
    return tensors * planes() * length * element_size <= kCacheBytes / 2;
  }

  // For sums, too; rows that are longer than a tile are not read in that order anyway.
  bool four_rows_at_a_time(int64_t tensors, int64_t element_size) const {
    return in_cache(tensors, element_size) || channels > kTile;
  }

  int64_t samples, channels, length;
  bool contiguous;
};

// A number for each plane of x.
void check_planes(const at::Tensor& t, const char* name, const Shape& shape) {
  check_floating(t, name, {shape.samples, shape.channels});
}

void check_mean(const at::Tensor& mean, const Shape& shape) {
  check_numbers(mean, "mean", at::kDouble, {shape.samples, shape.channels});
}

void check_affine(const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift, const Shape& shape) {
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

template <typename F>
void for_planes(const Shape& shape, const F& f) {
  at::parallel_for(0, shape.planes(), std::max<int64_t>(1, kGrain / shape.length), f);
}

// Rows of any sample: f(n, begin, end) with rows counted within the sample.
template <typename F>
void for_rows(const Shape& shape, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / shape.channels);
  at::parallel_for(0, shape.samples * shape.length, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin / shape.length; begin < end; ++n) {
      const int64_t stop = std::min(end, (n + 1) * shape.length);
      f(n, begin - n * shape.length, stop - n * shape.length);
      begin = stop;
    }
  });
}

// Two sums of each plane of a channels_last tensor, in double: f(n, begin, end, first, second) adds those of some rows
// to two arrays of C. Returned are (N, pieces, 2, C), to be added up by `gather`.
template <typename F>
at::Tensor sum_pieces(const Shape& shape, const F& f) {
  const int64_t pieces = shape.pieces();
  at::Tensor sums = at::zeros({shape.samples, pieces, 2, shape.channels}, at::kDouble);
  double* data = sums.data_ptr<double>();
  const int64_t grain = std::max<int64_t>(1, kGrain / (shape.channels * ((shape.length + pieces - 1) / pieces)));
  at::parallel_for(0, shape.samples * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / pieces, piece = task % pieces;
      double* first = data + task * 2 * shape.channels;
      f(n, piece * shape.length / pieces, (piece + 1) * shape.length / pieces, first, first + shape.channels);
    }
  });
  return sums;
}

// Adds up the pieces of a sample, into the first.
double* gather(const at::Tensor& sums, int64_t n) {
  const int64_t pieces = sums.size(1), width = 2 * sums.size(3);
  double* into = sums.data_ptr<double>() + n * pieces * width;
  for (int64_t piece = 1; piece < pieces; ++piece) {
    const double* from = into + piece * width;
    for (int64_t i = 0; i < width; ++i) {
      into[i] += from[i];
    }
  }
  return into;
}

// The same, added up: f's two sums of each plane.
template <typename A, typename F>
void sum_pieces(const Shape& shape, A* first, A* second, const F& f) {
  const at::Tensor sums = sum_pieces(shape, f);
  for (int64_t n = 0; n < shape.samples; ++n) {
    const double* sum = gather(sums, n);
    MMNORM_CALL(convert, sum, first + n * shape.channels, 1, shape.channels);
    MMNORM_CALL(convert, sum + shape.channels, second + n * shape.channels, 1, shape.channels);
  }
}

// Numbers of planes that are about to be written.
template <typename A>
class Array {
 public:
  explicit Array(int64_t size) : data_(new A[size]) {}
  A* data() const { return data_.get(); }

 private:
  std::unique_ptr<A[]> data_;
};

template <typename scalar_t, typename A>
void moments_of_rows(const scalar_t* x, double* mean, A* var, const Shape& shape) {
  const int64_t channels = shape.channels, length = shape.length;
  const bool together = shape.four_rows_at_a_time(1, sizeof(scalar_t));
  // To begin with, the mean of a few rows: one far off would cost all planes another attempt.
  const Array<A> center(shape.planes());
  for (int64_t n = 0; n < shape.samples; ++n) {
    MMNORM_CALL(mean_of_some_rows, x + n * length * channels, center.data() + n * channels, channels, length);
  }
  // See plane_moments for the two attempts.
  for (int attempt = 0; attempt < 2; ++attempt) {
    const at::Tensor sums =
        sum_pieces(shape, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* square) {
          MMNORM_CALL(row_moments, x + n * length * channels, center.data() + n * channels, sum, square, channels,
                      begin, end, together);
        });
    bool far = false;
    for (int64_t n = 0; n < shape.samples; ++n) {
      const double* sum = gather(sums, n);
      const int64_t plane = n * channels;
      far |= MMNORM_CALL(moments_about, center.data() + plane, sum, sum + channels, length, mean + plane, var + plane,
                         channels);
    }
    if (!far) {
      break;
    }
    MMNORM_CALL(convert, mean, center.data(), 1, shape.planes());
  }
}

at::ScalarType accumulation_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A tensor whose numbers lie one after another.
at::Tensor in_order(const at::Tensor& t) { return t.is_contiguous() && !t.is_neg() ? t : t.contiguous().resolve_neg(); }

// Numbers of planes, times a factor, as the loops read them: the tensor's own, or converted.
template <typename A>
class Numbers {
 public:
  explicit Numbers(const at::Tensor& t, double factor = 1) : tensor_(in_order(t)) {
    if (t.scalar_type() != at::kFloat && t.scalar_type() != at::kDouble) {
      tensor_ = tensor_.to(c10::CppTypeToScalarType<A>::value);
    }
    if (tensor_.scalar_type() != c10::CppTypeToScalarType<A>::value || factor != 1) {
      converted_.emplace(t.numel());
      AT_DISPATCH_FLOATING_TYPES(tensor_.scalar_type(), "mmnorm::numbers", [&] {
        MMNORM_CALL(convert, tensor_.const_data_ptr<scalar_t>(), converted_->data(), factor, t.numel());
      });
    }
  }

  const A* data() const { return converted_ ? converted_->data() : tensor_.const_data_ptr<A>(); }

 private:
  at::Tensor tensor_;
  std::optional<Array<A>> converted_;
};

// The means of planes, rounded, and what makes good what is lost by that.
template <typename A>
class Centers {
 public:
  explicit Centers(const at::Tensor& mean) : mean_(mean.const_data_ptr<double>()), size_(mean.numel()), centers_(size_) {
    MMNORM_CALL(convert, mean_, centers_.data(), 1, size_);
  }

  const A* data() const { return centers_.data(); }

  // The shift of scale * (x - center) + shift that makes it scale * (x - mean) + factor * shift.
  Array<A> shift_for(const Numbers<A>& scale, const at::Tensor& shift, double factor = 1) const {
    Array<A> result(size_);
    const bool as_is = shift.scalar_type() == at::kFloat || shift.scalar_type() == at::kDouble;
    const at::Tensor numbers = in_order(as_is ? shift : shift.to(at::kDouble));
    AT_DISPATCH_FLOATING_TYPES(numbers.scalar_type(), "mmnorm::shift_for", [&] {
      MMNORM_CALL(shift_for_center, mean_, data(), scale.data(), numbers.const_data_ptr<scalar_t>(), factor,
                  result.data(), size_);
    });
    return result;
  }

  // Sums of g * (x - center) to those of g * (x - mean), given those of g.
  void about_the_mean(const A* total, A* product) const {
    MMNORM_CALL(about_the_mean, mean_, data(), total, product, size_);
  }

 private:
  const double* mean_;
  int64_t size_;
  Array<A> centers_;
};

// scale * (x - mean) + shift as the loops read it.
template <typename A>
class Affine {
 public:
  Affine(const Centers<A>& centers, const at::Tensor& scale, const at::Tensor& shift, double scale_factor = 1,
         double shift_factor = 1)
      : scale_(scale, scale_factor), shift_(centers.shift_for(scale_, shift, shift_factor)) {}

  const A* scale() const { return scale_.data(); }
  const A* shift() const { return shift_.data(); }

 private:
  Numbers<A> scale_;
  Array<A> shift_;
};

// Bytes of the bits of a row: of a plane, or of the channels of a position.
template <typename A>
int64_t bytes_of(const Shape& shape) {
  const int64_t size = shape.contiguous ? shape.length : shape.channels;
  return MMNORM_CALL(bit_bytes<A>, size);
}

}  // namespace

std::string instructions() {
  switch (kInstructions) {
    case Instructions::Avx512:
      return "avx512";
    case Instructions::Avx2:
      return "avx2";
    default:
      return "default";
  }
}

std::tuple<at::Tensor, at::Tensor> moments(const at::Tensor& x) {
  const Shape shape(x);
  at::Tensor mean = at::empty({shape.samples, shape.channels}, at::kDouble);
  at::Tensor var = at::empty({shape.samples, shape.channels}, accumulation_type(x));
  double* m = mean.data_ptr<double>();
  MMNORM_DISPATCH(x, "mmnorm::moments", {
    A* v = var.data_ptr<A>();
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_moments, data, m, v, shape.length, begin, end);
      });
    } else {
      moments_of_rows<scalar_t, A>(data, m, v, shape);
    }
  });
  return {mean, var};
}

at::Tensor affine(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift,
                  double negative_slope) {
  const Shape shape(x);
  check_affine(mean, scale, shift, shape);
  at::Tensor y = at::empty_like(x);
  MMNORM_DISPATCH(x, "mmnorm::affine", {
    const auto a = static_cast<A>(negative_slope);
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    scalar_t* out = y.data_ptr<scalar_t>();
    const Centers<A> centers(mean);
    const Affine<A> form(centers, scale, shift);
    const A *c = centers.data(), *s = form.scale(), *t = form.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_affine, data, c, s, t, a, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_affine, data + sample, c + plane, s + plane, t + plane, a, out + sample,
                    shape.channels, begin, end, shape.in_cache(2, sizeof(scalar_t)));
      });
    }
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor> affine_add(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                                              const at::Tensor& shift, const at::Tensor& other, double negative_slope,
                                              bool with_bits) {
  const Shape shape(x);
  check_affine(mean, scale, shift, shape);
  check_laid_out(other, "other", x);
  at::Tensor y = at::empty_like(x), bits;
  MMNORM_DISPATCH(x, "mmnorm::affine_add", {
    const auto a = static_cast<A>(negative_slope);
    const scalar_t *data = x.const_data_ptr<scalar_t>(), *second = other.const_data_ptr<scalar_t>();
    scalar_t* out = y.data_ptr<scalar_t>();
    uint8_t* b = nullptr;
    const int64_t bytes = bytes_of<A>(shape);
    if (with_bits) {
      bits = at::empty({shape.rows(), bytes}, at::kByte);
      b = bits.data_ptr<uint8_t>();
    }
    const Centers<A> centers(mean);
    const Affine<A> form(centers, scale, shift);
    const A *c = centers.data(), *s = form.scale(), *t = form.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_affine_add, data, second, c, s, t, a, out, b, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_affine_add, data + sample, second + sample, c + plane, s + plane, t + plane, a,
                    out + sample, b ? b + n * shape.length * bytes : nullptr, shape.channels, begin, end);
      });
    }
  });
  return {y, bits};
}

std::tuple<at::Tensor, at::Tensor> plane_sums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean,
                                              const at::Tensor& scale, const at::Tensor& shift, double negative_slope) {
  const Shape shape(x);
  check_laid_out(dy, "dy", x);
  check_affine(mean, scale, shift, shape);
  at::Tensor total = at::empty(mean.sizes(), x.options().dtype(accumulation_type(x))), product = at::empty_like(total);
  MMNORM_DISPATCH(x, "mmnorm::plane_sums", {
    const auto a = static_cast<A>(negative_slope);
    const scalar_t *gradient = dy.const_data_ptr<scalar_t>(), *data = x.const_data_ptr<scalar_t>();
    const Centers<A> centers(mean);
    // The activation's argument.
    std::optional<Affine<A>> form;
    if (negative_slope != kNoActivation) {
      form.emplace(centers, scale, shift);
    }
    const A *c = centers.data(), *s = form ? form->scale() : c, *t = form ? form->shift() : c;
    A *first = total.data_ptr<A>(), *second = product.data_ptr<A>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_sums, gradient, data, c, s, t, a, first, second, shape.length, begin, end);
      });
    } else {
      sum_pieces(shape, first, second, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* products) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_sums, gradient + sample, data + sample, c + plane, s + plane, t + plane, a, sum,
                    products, shape.channels, begin, end, shape.four_rows_at_a_time(2, sizeof(scalar_t)));
      });
    }
    centers.about_the_mean(first, second);
  });
  return {total, product};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plane_sums_add(const at::Tensor& dy, const at::Tensor& x,
                                                              const at::Tensor& mean, const at::Tensor& bits,
                                                              double negative_slope) {
  const Shape shape(x);
  check_laid_out(dy, "dy", x);
  check_mean(mean, shape);
  at::Tensor total = at::empty(mean.sizes(), x.options().dtype(accumulation_type(x))), product = at::empty_like(total);
  at::Tensor dz = at::empty_like(x);
  MMNORM_DISPATCH(x, "mmnorm::plane_sums_add", {
    const auto a = static_cast<A>(negative_slope);
    const int64_t bytes = bytes_of<A>(shape);
    check_numbers(bits, "bits", at::kByte, {shape.rows(), bytes});
    const scalar_t *gradient = dy.const_data_ptr<scalar_t>(), *data = x.const_data_ptr<scalar_t>();
    const uint8_t* b = bits.const_data_ptr<uint8_t>();
    scalar_t* out = dz.data_ptr<scalar_t>();
    const Centers<A> centers(mean);
    const A* c = centers.data();
    A *first = total.data_ptr<A>(), *second = product.data_ptr<A>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_sums_add, gradient, data, b, c, a, out, first, second, shape.length, begin, end);
      });
    } else {
      sum_pieces(shape, first, second, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* products) {
        const int64_t sample = n * shape.length * shape.channels;
        MMNORM_CALL(row_sums_add, gradient + sample, data + sample, b + n * shape.length * bytes,
                    c + n * shape.channels, a, out + sample, sum, products, shape.channels, begin, end,
                    shape.four_rows_at_a_time(3, sizeof(scalar_t)));
      });
    }
    centers.about_the_mean(first, second);
  });
  return {total, product, dz};
}

at::Tensor slopes_of(const at::Tensor& bits, const at::Tensor& x, double negative_slope) {
  const Shape shape(x);
  at::Tensor slopes = at::empty_like(x);
  MMNORM_DISPATCH(x, "mmnorm::slopes_of", {
    const int64_t bytes = bytes_of<A>(shape), size = shape.contiguous ? shape.length : shape.channels;
    check_numbers(bits, "bits", at::kByte, {shape.rows(), bytes});
    for (int64_t row = 0; row < shape.rows(); ++row) {
      MMNORM_CALL(read_slopes, bits.const_data_ptr<uint8_t>() + row * bytes, static_cast<A>(negative_slope),
                  slopes.data_ptr<scalar_t>() + row * size, size);
    }
  });
  return slopes;
}

at::Tensor mean_gradient(const at::Tensor& scale, const at::Tensor& total) {
  at::Tensor result = at::empty(total.sizes(), total.options().dtype(at::kDouble));
  AT_DISPATCH_FLOATING_TYPES(total.scalar_type(), "mmnorm::mean_gradient", [&] {
    const Numbers<scalar_t> scales(scale);
    MMNORM_CALL(mean_gradient, scales.data(), total.const_data_ptr<scalar_t>(), result.data_ptr<double>(),
                total.numel());
  });
  return result;
}

at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& shift, const at::Tensor& slope, const at::Tensor& offset,
                          double slope_factor, double offset_factor, double negative_slope) {
  const Shape shape(x);
  check_laid_out(dy, "dy", x);
  check_affine(mean, scale, shift, shape);
  check_planes(slope, "slope", shape);
  check_planes(offset, "offset", shape);
  at::Tensor dx = at::empty_like(x);
  MMNORM_DISPATCH(x, "mmnorm::input_gradient", {
    const auto a = static_cast<A>(negative_slope);
    const scalar_t *gradient = dy.const_data_ptr<scalar_t>(), *data = x.const_data_ptr<scalar_t>();
    scalar_t* out = dx.data_ptr<scalar_t>();
    const Centers<A> centers(mean);
    const Affine<A> deviation(centers, slope, offset, slope_factor, offset_factor);
    const Numbers<A> scales(scale);
    std::optional<Array<A>> shifts;
    if (negative_slope != kNoActivation) {
      shifts.emplace(centers.shift_for(scales, shift));
    }
    const A *c = centers.data(), *s = scales.data(), *t = shifts ? shifts->data() : c, *k = deviation.scale(),
            *o = deviation.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_gradient, gradient, data, c, s, t, a, k, o, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_gradient, gradient + sample, data + sample, c + plane, s + plane, t + plane, a,
                    k + plane, o + plane, out + sample, shape.channels, begin, end,
                    shape.in_cache(3, sizeof(scalar_t)));
      });
    }
  });
  return dx;
}

}  // namespace mmnorm
