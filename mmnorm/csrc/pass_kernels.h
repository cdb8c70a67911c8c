// The loops of the four passes, for one set of vector instructions; instructions.h includes this file once for each.
//
// Vectors are as long as the registers, MMNORM_BYTES: gcc takes longer ones to pieces in memory. Sums are taken in an
// order that the shape and the instructions decide, not the number of threads.

namespace mmnorm {
namespace MMNORM_CPU {

// Reading and writing a vector's worth of accumulation type, whatever the type in memory is.

template <typename T>
struct Lanes;

template <>
struct Lanes<float> {
  using Vector = float __attribute__((vector_size(MMNORM_BYTES)));
  static constexpr int64_t size = MMNORM_BYTES / 4;
};

template <>
struct Lanes<double> {
  using Vector = double __attribute__((vector_size(MMNORM_BYTES)));
  static constexpr int64_t size = MMNORM_BYTES / 8;
};

template <typename T>
using Vector = typename Lanes<T>::Vector;

inline void read(const float* from, Vector<float>& v) {
  std::memcpy(&v, from, sizeof(v));
}

inline void read(const double* from, Vector<double>& v) {
  std::memcpy(&v, from, sizeof(v));
}

inline void write(float* to, const Vector<float>& v) {
  std::memcpy(to, &v, sizeof(v));
}

inline void write(double* to, const Vector<double>& v) {
  std::memcpy(to, &v, sizeof(v));
}

// bfloat16 is the upper half of a float.
using Halves = uint16_t __attribute__((vector_size(MMNORM_BYTES / 2)));
using Words = uint32_t __attribute__((vector_size(MMNORM_BYTES)));

inline void read(const c10::BFloat16* from, Vector<float>& v) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  v = (Vector<float>)(__builtin_convertvector(halves, Words) << 16);
}

inline void write(c10::BFloat16* to, const Vector<float>& v) {
  // Round to nearest, ties to even; what is not a number stays none.
  const Words words = (Words)v;
  const Words rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
  const Words nan = (Words)(v != v);
  const Halves halves = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves);
  std::memcpy(to, &halves, sizeof(halves));
}

// Bytes between a value and one that is asked for at the same time. A processor's own prefetching stops at the end of a
// page and does not foresee what is only written; with this, passes over large tensors take a tenth less, affine a fifth.
constexpr int64_t kAhead = 4096;

// Those of a tensor that is walked through from its beginning to its end. Past the end an address does no harm.
template <typename T, typename V>
inline void read_stream(const T* from, V& v, int64_t ahead = kAhead / static_cast<int64_t>(sizeof(T))) {
  __builtin_prefetch(from + ahead, 0);
  read(from, v);
}

template <typename T, typename V>
inline void write_stream(T* to, const V& v) {
  __builtin_prefetch(to + kAhead / static_cast<int64_t>(sizeof(T)), 1);
  write(to, v);
}

// The sum over the lanes of a vector, in double.
template <typename V>
inline double total(const V& v) {
  double sum = 0;
  for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); ++i) {
    sum += static_cast<double>(v[i]);
  }
  return sum;
}

// Values that are summed in the accumulation type before they are added to a double.
constexpr int64_t kRun = 4096;

// Calls step(i) for every full vector of a plane and tail(i) for every value after those; flush() now and then.
template <typename A, typename Step, typename Tail, typename Flush>
inline void walk(int64_t length, const Step& step, const Tail& tail, const Flush& flush) {
  constexpr int64_t lanes = Lanes<A>::size;
  int64_t i = 0;
  while (i + lanes <= length) {
    const int64_t end = std::min(length, i + kRun);
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      step(i, 0);
      step(i + lanes, 1);
    }
    for (; i + lanes <= end; i += lanes) {
      step(i, 0);
    }
    flush();
  }
  for (; i < length; ++i) {
    tail(i);
  }
}

// Contiguous: planes [begin, end) of `length` values each.

template <typename T, typename A>
void plane_moments(const T* x, double* mean, A* var, int64_t length, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* row = x + plane * length;
    // Deviations from any value of the plane keep the square small. Where that value is far from the rest, as the mean
    // then tells, the mean is taken instead.
    double center = static_cast<double>(static_cast<A>(row[0]));
    for (int attempt = 0;; ++attempt) {
      const A c = static_cast<A>(center);
      double sum = 0, square = 0;
      Vector<A> sums[2] = {}, squares[2] = {};
      walk<A>(
          length,
          [&](int64_t i, int part) {
            Vector<A> v;
            read_stream(row + i, v);
            v -= c;
            sums[part] += v;
            squares[part] += v * v;
          },
          [&](int64_t i) {
            const A v = static_cast<A>(row[i]) - c;
            sum += static_cast<double>(v);
            square += static_cast<double>(v) * static_cast<double>(v);
          },
          [&] {
            sum += total(sums[0] + sums[1]);
            square += total(squares[0] + squares[1]);
            sums[0] = sums[1] = squares[0] = squares[1] = Vector<A>{};
          });
      const double deviation = sum / length;
      const double variance = square / length - deviation * deviation;
      mean[plane] = static_cast<double>(c) + deviation;
      var[plane] = static_cast<A>(variance < 0 ? 0 : variance);  // NaN stays NaN
      if (attempt == 1 || !(deviation * deviation > kFar * variance)) {
        break;
      }
      center = mean[plane];
    }
  }
}

template <typename T, typename A>
void plane_affine(const T* x, const A* center, const A* scale, const A* shift, T* y, int64_t length, int64_t begin,
                  int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* from = x + plane * length;
    T* to = y + plane * length;
    const A c = center[plane], s = scale[plane], t = shift[plane];
    walk<A>(
        length,
        [&](int64_t i, int) {
          Vector<A> v;
          read_stream(from + i, v);
          write_stream(to + i, (v - c) * s + t);
        },
        [&](int64_t i) { to[i] = static_cast<T>((static_cast<A>(from[i]) - c) * s + t); }, [] {});
  }
}

template <typename T, typename A>
void plane_sums(const T* dy, const T* x, const A* center, A* total_dy, A* total_product, int64_t length, int64_t begin,
                int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* gradient = dy + plane * length;
    const T* row = x + plane * length;
    const A c = center[plane];
    double sum = 0, product = 0;
    Vector<A> sums[2] = {}, products[2] = {};
    walk<A>(
        length,
        [&](int64_t i, int part) {
          Vector<A> g, v;
          read_stream(gradient + i, g);
          read_stream(row + i, v);
          sums[part] += g;
          products[part] += g * (v - c);
        },
        [&](int64_t i) {
          const A g = static_cast<A>(gradient[i]);
          sum += static_cast<double>(g);
          product += static_cast<double>(g * (static_cast<A>(row[i]) - c));
        },
        [&] {
          sum += total(sums[0] + sums[1]);
          product += total(products[0] + products[1]);
          sums[0] = sums[1] = products[0] = products[1] = Vector<A>{};
        });
    total_dy[plane] = static_cast<A>(sum);
    total_product[plane] = static_cast<A>(product);
  }
}

template <typename T, typename A>
void plane_gradient(const T* dy, const T* x, const A* center, const A* scale, const A* slope, const A* offset, T* dx,
                    int64_t length, int64_t begin, int64_t end) {
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* gradient = dy + plane * length;
    const T* from = x + plane * length;
    T* to = dx + plane * length;
    const A c = center[plane], s = scale[plane], k = slope[plane], o = offset[plane];
    walk<A>(
        length,
        [&](int64_t i, int) {
          Vector<A> g, v;
          read_stream(gradient + i, g);
          read_stream(from + i, v);
          write_stream(to + i, g * s + (v - c) * k + o);
        },
        [&](int64_t i) {
          to[i] = static_cast<T>(static_cast<A>(gradient[i]) * s + (static_cast<A>(from[i]) - c) * k + o);
        },
        [] {});
  }
}

// channels_last: rows [begin, end) of `channels` values each, all of one sample, a value of each plane in each row.

// Calls full(i) for every full vector of channels and single(i) for every channel after those.
template <typename A, typename Full, typename Single>
inline void along_channels(int64_t channels, const Full& full, const Single& single) {
  constexpr int64_t lanes = Lanes<A>::size;
  int64_t i = 0;
  for (; i + lanes <= channels; i += lanes) {
    full(i);
  }
  for (; i < channels; ++i) {
    single(i);
  }
}

// Rows that are summed in the accumulation type before they are added to doubles, and channels at a time: their sums
// stay in the fastest cache, and each row is read in long pieces.
constexpr int64_t kRows = 64;
constexpr int64_t kTile = 512;

// Values between one and that of the same channel which is asked for at the same time: at least kAhead within a tile.
template <typename T>
inline int64_t rows_ahead(int64_t channels) {
  const int64_t width = std::min(kTile, channels) * static_cast<int64_t>(sizeof(T));
  return std::max<int64_t>(4, kAhead / width) * channels;
}

// Two sums over the rows for each channel; full and single add what the values of a row from channel i on contribute.
template <typename A, typename Full, typename Single>
inline void sum_rows(double* first_sum, double* second_sum, int64_t channels, int64_t begin, int64_t end,
                     const Full& full, const Single& single) {
  alignas(64) A a[kTile], b[kTile];
  for (int64_t rows = begin; rows < end; rows += kRows) {
    const int64_t last = std::min(rows + kRows, end);
    for (int64_t tile = 0; tile < channels; tile += kTile) {
      const int64_t width = std::min(kTile, channels - tile);
      std::fill(a, a + width, A(0));
      std::fill(b, b + width, A(0));
      int64_t row = rows;
      for (; row + 4 <= last; row += 4) {
        along_channels<A>(
            width,
            [&](int64_t i) {
              Vector<A> u, v;
              read(a + i, u);
              read(b + i, v);
              for (int64_t r = 0; r < 4; ++r) {
                full(row + r, tile + i, u, v);
              }
              write(a + i, u);
              write(b + i, v);
            },
            [&](int64_t i) {
              for (int64_t r = 0; r < 4; ++r) {
                single(row + r, tile + i, a[i], b[i]);
              }
            });
      }
      for (; row < last; ++row) {
        along_channels<A>(
            width,
            [&](int64_t i) {
              Vector<A> u, v;
              read(a + i, u);
              read(b + i, v);
              full(row, tile + i, u, v);
              write(a + i, u);
              write(b + i, v);
            },
            [&](int64_t i) { single(row, tile + i, a[i], b[i]); });
      }
      for (int64_t i = 0; i < width; ++i) {
        first_sum[tile + i] += static_cast<double>(a[i]);
        second_sum[tile + i] += static_cast<double>(b[i]);
      }
    }
  }
}

template <typename T, typename A>
void row_moments(const T* x, const A* center, double* sum, double* square, int64_t channels, int64_t begin,
                 int64_t end) {
  const int64_t ahead = rows_ahead<T>(channels);
  sum_rows<A>(
      sum, square, channels, begin, end,
      [&](int64_t row, int64_t i, Vector<A>& s, Vector<A>& q) {
        Vector<A> v, c;
        read_stream(x + row * channels + i, v, ahead);
        read(center + i, c);
        v -= c;
        s += v;
        q += v * v;
      },
      [&](int64_t row, int64_t i, A& s, A& q) {
        const A v = static_cast<A>(x[row * channels + i]) - center[i];
        s += v;
        q += v * v;
      });
}

template <typename T, typename A>
void row_affine(const T* x, const A* center, const A* scale, const A* shift, T* y, int64_t channels, int64_t begin,
                int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* from = x + row * channels;
    T* to = y + row * channels;
    along_channels<A>(
        channels,
        [&](int64_t i) {
          Vector<A> v, c, s, t;
          read_stream(from + i, v);
          read(center + i, c);
          read(scale + i, s);
          read(shift + i, t);
          write_stream(to + i, (v - c) * s + t);
        },
        [&](int64_t i) { to[i] = static_cast<T>((static_cast<A>(from[i]) - center[i]) * scale[i] + shift[i]); });
  }
}

template <typename T, typename A>
void row_sums(const T* dy, const T* x, const A* center, double* sum, double* product, int64_t channels, int64_t begin,
              int64_t end) {
  const int64_t ahead = rows_ahead<T>(channels);
  sum_rows<A>(
      sum, product, channels, begin, end,
      [&](int64_t row, int64_t i, Vector<A>& s, Vector<A>& p) {
        Vector<A> g, v, c;
        read_stream(dy + row * channels + i, g, ahead);
        read_stream(x + row * channels + i, v, ahead);
        read(center + i, c);
        s += g;
        p += g * (v - c);
      },
      [&](int64_t row, int64_t i, A& s, A& p) {
        const A g = static_cast<A>(dy[row * channels + i]);
        s += g;
        p += g * (static_cast<A>(x[row * channels + i]) - center[i]);
      });
}

template <typename T, typename A>
void row_gradient(const T* dy, const T* x, const A* center, const A* scale, const A* slope, const A* offset, T* dx,
                  int64_t channels, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gradient = dy + row * channels;
    const T* from = x + row * channels;
    T* to = dx + row * channels;
    along_channels<A>(
        channels,
        [&](int64_t i) {
          Vector<A> g, v, c, s, k, o;
          read_stream(gradient + i, g);
          read_stream(from + i, v);
          read(center + i, c);
          read(scale + i, s);
          read(slope + i, k);
          read(offset + i, o);
          write_stream(to + i, g * s + (v - c) * k + o);
        },
        [&](int64_t i) {
          to[i] = static_cast<T>(static_cast<A>(gradient[i]) * scale[i] +
                                 (static_cast<A>(from[i]) - center[i]) * slope[i] + offset[i]);
        });
  }
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
