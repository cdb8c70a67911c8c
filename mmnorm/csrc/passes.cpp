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
#include <optional>
#include <type_traits>
#include <vector>

#include "checks.h"

namespace mmnorm {

// How far the mean may be from the value that was subtracted, squared and over the variance, for the variance to be
// taken as a difference of squares.
constexpr double kFar = 16;

}  // namespace mmnorm

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

  // Whether rows of so many tensors like x are best summed some at a time. Where the tensors come from memory, to read
  // them in its order is worth more: with two of them up to a third of the time.
  bool in_cache(int64_t tensors, int64_t element_size) const {
    return tensors * planes() * length * element_size <= kCacheBytes / 2;
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
    for (int64_t i = 0; i < shape.channels; ++i) {
      first[n * shape.channels + i] = static_cast<A>(sum[i]);
      second[n * shape.channels + i] = static_cast<A>(sum[shape.channels + i]);
    }
  }
}

template <typename scalar_t, typename A>
void moments_of_rows(const scalar_t* x, double* mean, A* var, const Shape& shape) {
  const int64_t channels = shape.channels, length = shape.length;
  const bool together = shape.in_cache(1, sizeof(scalar_t));
  // To begin with, the mean of a few rows: one far off would cost all planes another attempt.
  std::vector<A> center(shape.planes(), A(0));
  const int64_t picked = std::min<int64_t>(length, 16);
  for (int64_t n = 0; n < shape.samples; ++n) {
    A* c = center.data() + n * channels;
    for (int64_t pick = 0; pick < picked; ++pick) {
      const scalar_t* row = x + (n * length + pick * length / picked) * channels;
      for (int64_t i = 0; i < channels; ++i) {
        c[i] += static_cast<A>(row[i]) / picked;
      }
    }
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
      const double* square = sum + channels;
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t plane = n * channels + i;
        const double deviation = sum[i] / length;
        const double variance = square[i] / length - deviation * deviation;
        mean[plane] = static_cast<double>(center[plane]) + deviation;
        var[plane] = static_cast<A>(variance < 0 ? 0 : variance);  // NaN stays NaN
        if (deviation * deviation > kFar * variance) {
          far = true;
        }
      }
    }
    if (!far) {
      break;
    }
    for (int64_t plane = 0; plane < shape.planes(); ++plane) {
      center[plane] = static_cast<A>(mean[plane]);
    }
  }
}

at::ScalarType accumulation_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Numbers of planes as the loops read them: the tensor's own, or converted.
template <typename A>
class Numbers {
 public:
  explicit Numbers(const at::Tensor& t) : tensor_(t.is_contiguous() && !t.is_neg() ? t : t.contiguous().resolve_neg()) {
    if (t.scalar_type() == c10::CppTypeToScalarType<A>::value) {
      return;
    }
    // Without an operator, which takes longer than the loop.
    if (t.scalar_type() == at::kDouble) {
      const double* from = tensor_.const_data_ptr<double>();
      converted_.assign(from, from + t.numel());
    } else {
      tensor_ = tensor_.to(c10::CppTypeToScalarType<A>::value);
    }
  }

  const A* data() const { return converted_.empty() ? tensor_.const_data_ptr<A>() : converted_.data(); }

 private:
  at::Tensor tensor_;
  std::vector<A> converted_;
};

// scale * (x - mean) + shift as the loops read it: the mean rounded, and what is lost by that made good in the shift.
template <typename A>
class Affine {
 public:
  explicit Affine(const at::Tensor& mean) : mean_(mean.const_data_ptr<double>()), centers_(mean.numel()) {
    for (size_t plane = 0; plane < centers_.size(); ++plane) {
      centers_[plane] = static_cast<A>(mean_[plane]);
    }
  }

  Affine(const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift) : Affine(mean) {
    scales_.emplace(scale);
    const Numbers<A> shifts(shift);
    shifts_.assign(shifts.data(), shifts.data() + mean.numel());
    const A* s = this->scale();
    for (size_t plane = 0; plane < shifts_.size(); ++plane) {
      shifts_[plane] -= static_cast<A>(s[plane] * rest(plane));
    }
  }

  const A* center() const { return centers_.data(); }
  const A* scale() const { return scales_->data(); }
  const A* shift() const { return shifts_.data(); }

  // Sums of g * (x - center) to those of g * (x - mean), given those of g.
  void about_the_mean(const A* total, A* product) const {
    for (size_t plane = 0; plane < centers_.size(); ++plane) {
      product[plane] -= static_cast<A>(rest(plane)) * total[plane];
    }
  }

 private:
  double rest(size_t plane) const { return mean_[plane] - static_cast<double>(centers_[plane]); }

  const double* mean_;
  std::vector<A> centers_, shifts_;
  std::optional<Numbers<A>> scales_;
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
    const Affine<A> form(mean, scale, shift);
    const A *c = form.center(), *s = form.scale(), *t = form.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_affine, data, c, s, t, a, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_affine, data + sample, c + plane, s + plane, t + plane, a, out + sample,
                    shape.channels, begin, end);
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
    const Affine<A> form(mean, scale, shift);
    const A *c = form.center(), *s = form.scale(), *t = form.shift();
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
    const Affine<A> form(mean, scale, shift);
    const A *c = form.center(), *s = form.scale(), *t = form.shift();
    A *first = total.data_ptr<A>(), *second = product.data_ptr<A>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_sums, gradient, data, c, s, t, a, first, second, shape.length, begin, end);
      });
    } else {
      sum_pieces(shape, first, second, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* products) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_sums, gradient + sample, data + sample, c + plane, s + plane, t + plane, a, sum,
                    products, shape.channels, begin, end, shape.in_cache(2, sizeof(scalar_t)));
      });
    }
    form.about_the_mean(first, second);
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
    const Affine<A> form(mean);
    const A* c = form.center();
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
                    shape.in_cache(3, sizeof(scalar_t)));
      });
    }
    form.about_the_mean(first, second);
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

at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& shift, const at::Tensor& slope, const at::Tensor& offset,
                          double negative_slope) {
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
    const Affine<A> form(mean, scale, shift), deviation(mean, slope, offset);
    const A *c = form.center(), *s = form.scale(), *t = form.shift(), *k = deviation.scale(), *o = deviation.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_gradient, gradient, data, c, s, t, a, k, o, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_gradient, gradient + sample, data + sample, c + plane, s + plane, t + plane, a,
                    k + plane, o + plane, out + sample, shape.channels, begin, end);
      });
    }
  });
  return dx;
}

}  // namespace mmnorm
