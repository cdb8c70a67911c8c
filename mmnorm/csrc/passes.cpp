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

// The types in memory, each with the type A that is computed in.
#define MMNORM_DISPATCH(x, name, ...)                                                              \
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, (x).scalar_type(), name, [&] {                     \
    using A = at::opmath_type<scalar_t>;                                                           \
    __VA_ARGS__;                                                                                   \
  })

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
  // Pieces that the rows of a sample are summed in. Their number depends on the shape alone, for the results' sake.
  int64_t pieces() const {
    return std::min((length + 63) / 64, std::max<int64_t>(1, (64 + samples - 1) / samples));
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

// The gradient of the output, laid out as x is.
void check_gradient(const at::Tensor& dy, const at::Tensor& x) {
  MMNORM_EXPECT(is_dense_cpu(dy) && !dy.is_neg() && dy.scalar_type() == x.scalar_type() && dy.sizes() == x.sizes() &&
                    (x.is_contiguous() ? dy.is_contiguous() : is_channels_last(dy)),
                "dy", dy, "a tensor of the shape, type and memory format of x (", describe(x), ")");
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

template <typename scalar_t, typename A>
void moments_of_rows(const scalar_t* x, double* mean, A* var, const Shape& shape) {
  const int64_t channels = shape.channels, length = shape.length;
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
                      begin, end);
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

// Numbers of planes as the loops read them.
template <typename A>
at::Tensor as(const at::Tensor& t) {
  const auto dtype = c10::CppTypeToScalarType<A>::value;
  return t.scalar_type() == dtype && t.is_contiguous() && !t.is_neg() ? t : t.to(dtype).contiguous().resolve_neg();
}

// The means, rounded, and for each plane a call with what is lost by that.
template <typename A, typename F>
std::vector<A> centers_of(const at::Tensor& mean, const F& with_rest) {
  const double* m = mean.const_data_ptr<double>();
  std::vector<A> centers(mean.numel());
  for (int64_t plane = 0; plane < mean.numel(); ++plane) {
    centers[plane] = static_cast<A>(m[plane]);
    with_rest(plane, m[plane] - static_cast<double>(centers[plane]));
  }
  return centers;
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

at::Tensor affine(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale, const at::Tensor& shift) {
  const Shape shape(x);
  check_mean(mean, shape);
  check_planes(scale, "scale", shape);
  check_planes(shift, "shift", shape);
  at::Tensor y = at::empty_like(x);
  MMNORM_DISPATCH(x, "mmnorm::affine", {
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    scalar_t* out = y.data_ptr<scalar_t>();
    const at::Tensor slopes = as<A>(scale), constants = as<A>(shift).clone();
    const A* s = slopes.const_data_ptr<A>();
    const std::vector<A> centers = centers_of<A>(mean, [&, t = constants.data_ptr<A>()](int64_t plane, double rest) {
      t[plane] -= static_cast<A>(s[plane] * rest);
    });
    const A *c = centers.data(), *t = constants.const_data_ptr<A>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_affine, data, c, s, t, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_affine, data + sample, c + plane, s + plane, t + plane, out + sample, shape.channels, begin,
                    end);
      });
    }
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor> plane_sums(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean) {
  const Shape shape(x);
  check_gradient(dy, x);
  check_mean(mean, shape);
  at::Tensor total = at::empty(mean.sizes(), x.options().dtype(accumulation_type(x))), product = at::empty_like(total);
  MMNORM_DISPATCH(x, "mmnorm::plane_sums", {
    const scalar_t *gradient = dy.const_data_ptr<scalar_t>(), *data = x.const_data_ptr<scalar_t>();
    std::vector<A> rests(shape.planes());
    const std::vector<A> centers =
        centers_of<A>(mean, [&](int64_t plane, double rest) { rests[plane] = static_cast<A>(rest); });
    const A* c = centers.data();
    A *first = total.data_ptr<A>(), *second = product.data_ptr<A>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_sums, gradient, data, c, first, second, shape.length, begin, end);
      });
    } else {
      const int64_t channels = shape.channels;
      const at::Tensor sums =
          sum_pieces(shape, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* products) {
            const int64_t sample = n * shape.length * channels;
            MMNORM_CALL(row_sums, gradient + sample, data + sample, c + n * channels, sum, products, channels, begin,
                        end);
          });
      for (int64_t n = 0; n < shape.samples; ++n) {
        const double* sum = gather(sums, n);
        for (int64_t i = 0; i < channels; ++i) {
          first[n * channels + i] = static_cast<A>(sum[i]);
          second[n * channels + i] = static_cast<A>(sum[channels + i]);
        }
      }
    }
    for (int64_t plane = 0; plane < shape.planes(); ++plane) {
      second[plane] -= rests[plane] * first[plane];
    }
  });
  return {total, product};
}

at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& scale,
                          const at::Tensor& slope, const at::Tensor& offset) {
  const Shape shape(x);
  check_gradient(dy, x);
  check_mean(mean, shape);
  check_planes(scale, "scale", shape);
  check_planes(slope, "slope", shape);
  check_planes(offset, "offset", shape);
  at::Tensor dx = at::empty_like(x);
  MMNORM_DISPATCH(x, "mmnorm::input_gradient", {
    const scalar_t *gradient = dy.const_data_ptr<scalar_t>(), *data = x.const_data_ptr<scalar_t>();
    scalar_t* out = dx.data_ptr<scalar_t>();
    const at::Tensor factors = as<A>(scale), slopes = as<A>(slope), constants = as<A>(offset).clone();
    const A *s = factors.const_data_ptr<A>(), *k = slopes.const_data_ptr<A>();
    const std::vector<A> centers = centers_of<A>(mean, [&, o = constants.data_ptr<A>()](int64_t plane, double rest) {
      o[plane] -= static_cast<A>(k[plane] * rest);
    });
    const A *c = centers.data(), *o = constants.const_data_ptr<A>();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_gradient, gradient, data, c, s, k, o, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_gradient, gradient + sample, data + sample, c + plane, s + plane, k + plane, o + plane,
                    out + sample, shape.channels, begin, end);
      });
    }
  });
  return dx;
}

}  // namespace mmnorm
