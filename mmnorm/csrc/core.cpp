#include "core.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>

#include "bfloat16.h"

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
namespace core {
namespace {

// That of the first processor; 32 MiB where the system does not say. (sysconf gives the sum of all caches on some.)
int64_t last_cache_bytes() {
  int64_t kibibytes = 0;
  if (std::FILE* file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    // "32768K". By hand: a new glibc has a new fscanf, without which the library would not load on older systems.
    for (int c = std::fgetc(file); c >= '0' && c <= '9' && kibibytes < 1 << 30; c = std::fgetc(file)) {
      kibibytes = 10 * kibibytes + (c - '0');
    }
    std::fclose(file);
  }
  return (kibibytes > 0 ? kibibytes : 32 << 10) << 10;
}

// Of the processor's last cache.
const int64_t kCacheBytes = last_cache_bytes();

// Values that a thread should have to do at least.
constexpr int64_t kGrain = 1 << 14;

// The type T in memory, and the type A that is computed in.
template <typename M, typename C>
struct Types {
  using T = M;
  using A = C;
};

// Calls f with the types.
template <typename F>
void with_types(Type type, const F& f) {
  switch (type) {
    case Type::Float:
      return f(Types<float, float>());
    case Type::Double:
      return f(Types<double, double>());
    case Type::Bfloat16:
      return f(Types<Bfloat16, float>());
  }
}

// Calls f with the numbers.
template <typename F>
void with_numbers(const Numbers& numbers, const F& f) {
  if (numbers.type == Type::Double) {
    f(static_cast<const double*>(numbers.data));
  } else {
    f(static_cast<const float*>(numbers.data));
  }
}

// Pieces that the rows of a sample are summed in. Their number depends on the shape alone, for the results' sake.
int64_t pieces_of(const Shape& shape) {
  return std::min((shape.length + 63) / 64, std::max<int64_t>(1, (64 + shape.samples - 1) / shape.samples));
}

// Whether rows of so many tensors like x are best taken some at a time, or in pieces. Where the tensors come from
// memory, to read them in its order is worth more: with two of them up to a third of the time.
bool in_cache(const Shape& shape, int64_t tensors, int64_t element_size) {
  return tensors * shape.planes() * shape.length * element_size <= kCacheBytes / 2;
}

// For sums, too; rows that are longer than a tile are not read in that order anyway.
bool four_rows_at_a_time(const Shape& shape, int64_t tensors, int64_t element_size) {
  return in_cache(shape, tensors, element_size) || shape.channels > kTile;
}

template <typename F>
void for_planes(const Shape& shape, const F& f) {
  parallel_for(shape.planes(), std::max<int64_t>(1, kGrain / shape.length), Part(f));
}

// Rows of any sample: f(n, begin, end) with rows counted within the sample.
template <typename F>
void for_rows(const Shape& shape, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / shape.channels);
  const auto part = [&](int64_t begin, int64_t end) {
    for (int64_t n = begin / shape.length; begin < end; ++n) {
      const int64_t stop = std::min(end, (n + 1) * shape.length);
      f(n, begin - n * shape.length, stop - n * shape.length);
      begin = stop;
    }
  };
  parallel_for(shape.samples * shape.length, grain, Part(part));
}

// Numbers without values, to be deleted as an array. new T[size] would check the size by a function that the libstdc++ of
// manylinux2014 does not have.
template <typename T>
T* new_array(int64_t size) {
  return static_cast<T*>(::operator new[](static_cast<size_t>(size) * sizeof(T)));
}

// Two sums of each plane of a channels_last tensor, in double, of some pieces of each sample: (N, pieces, 2, C).
class Pieces {
 public:
  // f(n, begin, end, first, second) adds those of some rows to two arrays of C.
  template <typename F>
  Pieces(const Shape& shape, const F& f)
      : pieces_(pieces_of(shape)),
        width_(2 * shape.channels),
        sums_(new_array<double>(shape.samples * pieces_ * width_)) {
    std::fill_n(sums_.get(), shape.samples * pieces_ * width_, 0.0);
    const int64_t grain = std::max<int64_t>(1, kGrain / (shape.channels * ((shape.length + pieces_ - 1) / pieces_)));
    const auto part = [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / pieces_, piece = task % pieces_;
        double* first = sums_.get() + task * width_;
        f(n, piece * shape.length / pieces_, (piece + 1) * shape.length / pieces_, first, first + shape.channels);
      }
    };
    parallel_for(shape.samples * pieces_, grain, Part(part));
  }

  // Adds up the pieces of a sample, into the first.
  const double* gather(int64_t n) {
    double* into = sums_.get() + n * pieces_ * width_;
    for (int64_t piece = 1; piece < pieces_; ++piece) {
      const double* from = into + piece * width_;
      for (int64_t i = 0; i < width_; ++i) {
        into[i] += from[i];
      }
    }
    return into;
  }

 private:
  int64_t pieces_, width_;
  std::unique_ptr<double[]> sums_;
};

// The same, added up: f's two sums of each plane.
template <typename A, typename F>
void sum_pieces(const Shape& shape, A* first, A* second, const F& f) {
  Pieces pieces(shape, f);
  for (int64_t n = 0; n < shape.samples; ++n) {
    const double* sum = pieces.gather(n);
    MMNORM_CALL(convert, sum, first + n * shape.channels, 1, shape.channels);
    MMNORM_CALL(convert, sum + shape.channels, second + n * shape.channels, 1, shape.channels);
  }
}

// Numbers of planes that are about to be written.
template <typename A>
class Array {
 public:
  explicit Array(int64_t size) : data_(new_array<A>(size)) {}
  A* data() const { return data_.get(); }

 private:
  std::unique_ptr<A[]> data_;
};

template <typename T, typename A>
void moments_of_rows(const T* x, double* mean, A* var, const Shape& shape) {
  const int64_t channels = shape.channels, length = shape.length;
  const bool together = four_rows_at_a_time(shape, 1, sizeof(T));
  // To begin with, the mean of a few rows: one far off would cost all planes another attempt.
  const Array<A> center(shape.planes());
  for (int64_t n = 0; n < shape.samples; ++n) {
    MMNORM_CALL(mean_of_some_rows, x + n * length * channels, center.data() + n * channels, channels, length);
  }
  // See plane_moments for the two attempts.
  for (int attempt = 0; attempt < 2; ++attempt) {
    Pieces pieces(shape, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* square) {
      MMNORM_CALL(row_moments, x + n * length * channels, center.data() + n * channels, sum, square, channels, begin,
                  end, together);
    });
    bool far = false;
    for (int64_t n = 0; n < shape.samples; ++n) {
      const double* sum = pieces.gather(n);
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

// Numbers of planes, times a factor, as the loops read them: those given, or converted.
template <typename A>
class Converted {
 public:
  Converted(const Numbers& numbers, int64_t size, double factor = 1) : data_(static_cast<const A*>(numbers.data)) {
    constexpr Type same = std::is_same_v<A, double> ? Type::Double : Type::Float;
    if (numbers.type != same || factor != 1) {
      converted_.emplace(size);
      data_ = converted_->data();
      with_numbers(numbers, [&](const auto* from) { MMNORM_CALL(convert, from, converted_->data(), factor, size); });
    }
  }

  const A* data() const { return data_; }

 private:
  const A* data_;
  std::optional<Array<A>> converted_;
};

// The means of planes, rounded, and what makes good what is lost by that.
template <typename A>
class Centers {
 public:
  Centers(const double* mean, int64_t size) : mean_(mean), size_(size), centers_(size) {
    MMNORM_CALL(convert, mean_, centers_.data(), 1, size_);
  }

  const A* data() const { return centers_.data(); }
  int64_t size() const { return size_; }

  // The shift of scale * (x - center) + shift that makes it scale * (x - mean) + factor * shift.
  Array<A> shift_for(const Converted<A>& scale, const Numbers& shift, double factor = 1) const {
    Array<A> result(size_);
    with_numbers(shift, [&](const auto* numbers) {
      MMNORM_CALL(shift_for_center, mean_, data(), scale.data(), numbers, factor, result.data(), size_);
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
  Affine(const Centers<A>& centers, const Numbers& scale, const Numbers& shift, double scale_factor = 1,
         double shift_factor = 1)
      : scale_(scale, centers.size(), scale_factor), shift_(centers.shift_for(scale_, shift, shift_factor)) {}

  const A* scale() const { return scale_.data(); }
  const A* shift() const { return shift_.data(); }

 private:
  Converted<A> scale_;
  Array<A> shift_;
};

}  // namespace

const char* instructions() {
  switch (kInstructions) {
    case Instructions::Avx512:
      return "avx512";
    case Instructions::Avx2:
      return "avx2";
    default:
      return "default";
  }
}

void moments(const Shape& shape, Type type, const void* x, double* mean, void* var) {
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const T* data = static_cast<const T*>(x);
    A* v = static_cast<A*>(var);
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_moments, data, mean, v, shape.length, begin, end);
      });
    } else {
      moments_of_rows(data, mean, v, shape);
    }
  });
}

void affine(const Shape& shape, Type type, const void* x, const double* mean, const Numbers& scale,
            const Numbers& shift, double negative_slope, void* y) {
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const auto a = static_cast<A>(negative_slope);
    const T* data = static_cast<const T*>(x);
    T* out = static_cast<T*>(y);
    const Centers<A> centers(mean, shape.planes());
    const Affine<A> form(centers, scale, shift);
    const A *c = centers.data(), *s = form.scale(), *t = form.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_affine, data, c, s, t, a, out, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_affine, data + sample, c + plane, s + plane, t + plane, a, out + sample, shape.channels, begin,
                    end, in_cache(shape, 2, sizeof(T)));
      });
    }
  });
}

int64_t bit_bytes(const Shape& shape, Type type) {
  int64_t bytes = 0;
  with_types(type, [&](auto types) {
    using A = typename decltype(types)::A;
    bytes = MMNORM_CALL(bit_bytes<A>, shape.row_size());
  });
  return bytes;
}

void affine_add(const Shape& shape, Type type, const void* x, const double* mean, const Numbers& scale,
                const Numbers& shift, const void* other, double negative_slope, void* y, uint8_t* bits) {
  const int64_t bytes = bit_bytes(shape, type);
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const auto a = static_cast<A>(negative_slope);
    const T *data = static_cast<const T*>(x), *second = static_cast<const T*>(other);
    T* out = static_cast<T*>(y);
    const Centers<A> centers(mean, shape.planes());
    const Affine<A> form(centers, scale, shift);
    const A *c = centers.data(), *s = form.scale(), *t = form.shift();
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_affine_add, data, second, c, s, t, a, out, bits, shape.length, begin, end);
      });
    } else {
      for_rows(shape, [&](int64_t n, int64_t begin, int64_t end) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_affine_add, data + sample, second + sample, c + plane, s + plane, t + plane, a, out + sample,
                    bits ? bits + n * shape.length * bytes : nullptr, shape.channels, begin, end);
      });
    }
  });
}

void plane_sums(const Shape& shape, Type type, const void* dy, const void* x, const double* mean, const Numbers& scale,
                const Numbers& shift, double negative_slope, void* total, void* product) {
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const auto a = static_cast<A>(negative_slope);
    const T *gradient = static_cast<const T*>(dy), *data = static_cast<const T*>(x);
    const Centers<A> centers(mean, shape.planes());
    // The activation's argument.
    std::optional<Affine<A>> form;
    if (negative_slope != kNoActivation) {
      form.emplace(centers, scale, shift);
    }
    const A *c = centers.data(), *s = form ? form->scale() : c, *t = form ? form->shift() : c;
    A *first = static_cast<A*>(total), *second = static_cast<A*>(product);
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_sums, gradient, data, c, s, t, a, first, second, shape.length, begin, end);
      });
    } else {
      sum_pieces(shape, first, second, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* products) {
        const int64_t sample = n * shape.length * shape.channels, plane = n * shape.channels;
        MMNORM_CALL(row_sums, gradient + sample, data + sample, c + plane, s + plane, t + plane, a, sum, products,
                    shape.channels, begin, end, four_rows_at_a_time(shape, 2, sizeof(T)));
      });
    }
    centers.about_the_mean(first, second);
  });
}

void plane_sums_add(const Shape& shape, Type type, const void* dy, const void* x, const double* mean,
                    const uint8_t* bits, double negative_slope, void* total, void* product, void* dz) {
  const int64_t bytes = bit_bytes(shape, type);
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const auto a = static_cast<A>(negative_slope);
    const T *gradient = static_cast<const T*>(dy), *data = static_cast<const T*>(x);
    T* out = static_cast<T*>(dz);
    const Centers<A> centers(mean, shape.planes());
    const A* c = centers.data();
    A *first = static_cast<A*>(total), *second = static_cast<A*>(product);
    if (shape.contiguous) {
      for_planes(shape, [&](int64_t begin, int64_t end) {
        MMNORM_CALL(plane_sums_add, gradient, data, bits, c, a, out, first, second, shape.length, begin, end);
      });
    } else {
      sum_pieces(shape, first, second, [&](int64_t n, int64_t begin, int64_t end, double* sum, double* products) {
        const int64_t sample = n * shape.length * shape.channels;
        MMNORM_CALL(row_sums_add, gradient + sample, data + sample, bits + n * shape.length * bytes,
                    c + n * shape.channels, a, out + sample, sum, products, shape.channels, begin, end,
                    four_rows_at_a_time(shape, 3, sizeof(T)));
      });
    }
    centers.about_the_mean(first, second);
  });
}

void slopes_of(const Shape& shape, Type type, const uint8_t* bits, double negative_slope, void* slopes) {
  const int64_t bytes = bit_bytes(shape, type), size = shape.row_size();
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    for (int64_t row = 0; row < shape.rows(); ++row) {
      MMNORM_CALL(read_slopes, bits + row * bytes, static_cast<A>(negative_slope), static_cast<T*>(slopes) + row * size,
                  size);
    }
  });
}

void mean_gradient(const Numbers& scale, const Numbers& total, double* result, int64_t size) {
  with_numbers(total, [&](const auto* totals) {
    const Converted<std::remove_const_t<std::remove_pointer_t<decltype(totals)>>> scales(scale, size);
    MMNORM_CALL(mean_gradient, scales.data(), totals, result, size);
  });
}

void input_gradient(const Shape& shape, Type type, const void* dy, const void* x, const double* mean,
                    const Numbers& scale, const Numbers& shift, const Numbers& slope, const Numbers& offset,
                    double slope_factor, double offset_factor, double negative_slope, void* dx) {
  with_types(type, [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    const auto a = static_cast<A>(negative_slope);
    const T *gradient = static_cast<const T*>(dy), *data = static_cast<const T*>(x);
    T* out = static_cast<T*>(dx);
    const Centers<A> centers(mean, shape.planes());
    const Affine<A> deviation(centers, slope, offset, slope_factor, offset_factor);
    const Converted<A> scales(scale, shape.planes());
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
        MMNORM_CALL(row_gradient, gradient + sample, data + sample, c + plane, s + plane, t + plane, a, k + plane,
                    o + plane, out + sample, shape.channels, begin, end, in_cache(shape, 3, sizeof(T)));
      });
    }
  });
}

}  // namespace core
}  // namespace mmnorm
