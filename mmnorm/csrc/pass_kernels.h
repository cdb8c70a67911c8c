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

inline void read(const Bfloat16* from, Vector<float>& v) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  v = (Vector<float>)(__builtin_convertvector(halves, Words) << 16);
}

inline void write(Bfloat16* to, const Vector<float>& v) {
  // Round to nearest, ties to even; what is not a number stays none.
  const Words words = (Words)v;
  const Words rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
  const Words nan = (Words)(v != v);
  const Halves halves = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves);
  std::memcpy(static_cast<void*>(to), &halves, sizeof(halves));
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
inline void write_stream(T* to, const V& v, int64_t ahead = kAhead / static_cast<int64_t>(sizeof(T))) {
  __builtin_prefetch(to + ahead, 1);
  write(to, v);
}

// The sum over the lanes of a vector, in double, half by half.
inline double total(const Vector<double>& v) {
  double sums[Lanes<double>::size];
  write(sums, v);
  for (int64_t half = Lanes<double>::size / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      sums[i] += sums[i + half];
    }
  }
  return sums[0];
}

inline double total(const Vector<float>& v) {
  using Half = float __attribute__((vector_size(MMNORM_BYTES / 2)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof(v));
  return total(__builtin_convertvector(halves[0], Vector<double>) + __builtin_convertvector(halves[1], Vector<double>));
}

// What follows the affine form, and its gradient; below 0, relu and leaky_relu have a slope.

struct Identity {
  template <typename V>
  V operator()(V v) const {
    return v;
  }
  template <typename V>
  V gradient(V, V g) const {
    return g;
  }
};

template <typename A>
struct LeakyRelu {
  A slope;

  Vector<A> operator()(Vector<A> v) const { return gradient(v, v); }
  A operator()(A v) const { return gradient(v, v); }
  Vector<A> gradient(Vector<A> v, Vector<A> g) const { return v <= 0 ? below(g) : g; }
  A gradient(A v, A g) const { return v <= 0 ? below(g) : g; }

  // Without a product where that would be NaN.
  Vector<A> below(Vector<A> g) const { return slope == 0 ? Vector<A>{} : g * slope; }
  A below(A g) const { return slope == 0 ? A(0) : g * slope; }
};

template <typename A, typename F>
inline void with_activation(A negative_slope, const F& f) {
  if (negative_slope == 1) {
    f(Identity{});
  } else {
    f(LeakyRelu<A>{negative_slope});
  }
}

// One bit a value, of rows of `size` values: whether it is not above 0. The bits of a vector are a word, and what is left
// after the full vectors is in bytes.

template <typename A>
using Word = std::conditional_t<(Lanes<A>::size > 8), uint16_t, uint8_t>;

template <typename A>
int64_t bit_bytes(int64_t size) {
  const int64_t full = size / Lanes<A>::size, rest = size % Lanes<A>::size;
  return full * static_cast<int64_t>(sizeof(Word<A>)) + (rest + 7) / 8;
}

// The sign of each lane, a bit each.
#if !defined(MMNORM_X86)
template <typename V>
inline int signs(const V& v) {
  int bits = 0;
  for (size_t lane = 0; lane < sizeof(v) / sizeof(v[0]); ++lane) {
    bits |= (v[lane] < 0) << lane;
  }
  return bits;
}
#elif MMNORM_BYTES == 64
inline int signs(const Vector<float>& v) { return _mm512_movepi32_mask((__m512i)v); }
inline int signs(const Vector<double>& v) { return _mm512_movepi64_mask((__m512i)v); }
#elif MMNORM_BYTES == 32
inline int signs(const Vector<float>& v) { return _mm256_movemask_ps((__m256)v); }
inline int signs(const Vector<double>& v) { return _mm256_movemask_pd((__m256d)v); }
#else
inline int signs(const Vector<float>& v) { return _mm_movemask_ps((__m128)v); }
inline int signs(const Vector<double>& v) { return _mm_movemask_pd((__m128d)v); }
#endif

template <typename A>
inline void write_bits(uint8_t* row, int64_t i, const Vector<A>& v) {
  const Vector<A> below = v <= 0 ? Vector<A>{} - 1 : Vector<A>{};
  const auto word = static_cast<Word<A>>(signs(below));
  std::memcpy(row + i / Lanes<A>::size * sizeof(word), &word, sizeof(word));
}

template <typename A>
inline uint8_t* byte_of(uint8_t* row, int64_t i) {
  return row + i / Lanes<A>::size * sizeof(Word<A>) + i % Lanes<A>::size / 8;
}

template <typename A>
inline void write_bit(uint8_t* row, int64_t i, A v) {
  uint8_t* byte = byte_of<A>(row, i);
  const int64_t bit = i % Lanes<A>::size % 8;
  *byte = static_cast<uint8_t>((bit ? *byte : 0) | (v <= 0) << bit);
}

// The gradient g, or what is below where the bit is set.
template <typename A>
inline Vector<A> masked(const uint8_t* row, int64_t i, const Vector<A>& g, const LeakyRelu<A>& activation) {
  using Ints = decltype(g < g);
  Word<A> word;
  std::memcpy(&word, row + i / Lanes<A>::size * sizeof(word), sizeof(word));
  Ints bits = {};
  for (int64_t lane = 0; lane < Lanes<A>::size; ++lane) {
    bits[lane] = 1 << lane;
  }
  return ((bits & word) != 0) ? activation.below(g) : g;
}

template <typename A>
inline A masked(const uint8_t* row, int64_t i, A g, const LeakyRelu<A>& activation) {
  const uint8_t byte = *byte_of<A>(const_cast<uint8_t*>(row), i);
  return byte >> (i % Lanes<A>::size % 8) & 1 ? activation.below(g) : g;
}

template <typename T, typename A>
void read_slopes(const uint8_t* row, A negative_slope, T* slopes, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    slopes[i] = static_cast<T>(masked<A>(row, i, A(1), LeakyRelu<A>{negative_slope}));
  }
}

// Values that are summed in the accumulation type before they are added to a double.
constexpr int64_t kRun = 4096;
// Sums that are under way at the same time: an addition takes four cycles.
constexpr int kParts = 4;

// Calls step(i, part) for every full vector of a plane and tail(i) for every value after those; flush() now and then.
template <typename A, typename Step, typename Tail, typename Flush>
inline void walk(int64_t length, const Step& step, const Tail& tail, const Flush& flush) {
  constexpr int64_t lanes = Lanes<A>::size;
  int64_t i = 0;
  while (i + lanes <= length) {
    const int64_t end = std::min(length, i + kRun);
    for (; i + kParts * lanes <= end; i += kParts * lanes) {
      step(i, 0);
      step(i + lanes, 1);
      step(i + 2 * lanes, 2);
      step(i + 3 * lanes, 3);
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

template <typename A>
struct Sums {
  Vector<A> parts[kParts] = {};
  double sum = 0;

  void flush() {
    sum += total((parts[0] + parts[1]) + (parts[2] + parts[3]));
    std::fill_n(parts, kParts, Vector<A>{});
  }
};

// Planes of a vector to a few, where the sums of the parts and of what is left over would take most of the time.
template <typename A>
inline bool is_short(int64_t length) {
  return length >= Lanes<A>::size && length < 2 * kParts * Lanes<A>::size;
}

// Calls step(i, keep) for every vector of such a plane, the last one at its end; keep(v) is v, less what an earlier vector
// has had of it.
template <typename A, typename Step>
inline void walk_short(int64_t length, const Step& step) {
  constexpr int64_t lanes = Lanes<A>::size;
  int64_t i = 0;
  for (; i + lanes <= length; i += lanes) {
    step(i, [](const Vector<A>& v) { return v; });
  }
  if (i < length) {
    Vector<A> lane;
    for (int64_t k = 0; k < lanes; ++k) {
      lane[k] = static_cast<A>(k);
    }
    const A had = static_cast<A>(i + lanes - length);
    step(length - lanes, [&](const Vector<A>& v) { return lane >= had ? v : Vector<A>{}; });
  }
}

// Contiguous: planes [begin, end) of `length` values each.

// Sums of the deviations of a plane's values from c, and of their squares.
template <typename T, typename A>
inline void sums_about(const T* row, A c, int64_t length, double& sum, double& square) {
  if (is_short<A>(length)) {
    Vector<A> s = {}, q = {};
    walk_short<A>(length, [&](int64_t i, const auto& keep) {
      Vector<A> v;
      read_stream(row + i, v);
      v = keep(v - c);
      s += v;
      q += v * v;
    });
    sum = total(s);
    square = total(q);
    return;
  }
  Sums<A> sums, squares;
  walk<A>(
      length,
      [&](int64_t i, int part) {
        Vector<A> v;
        read_stream(row + i, v);
        v -= c;
        sums.parts[part] += v;
        squares.parts[part] += v * v;
      },
      [&](int64_t i) {
        const A v = static_cast<A>(row[i]) - c;
        sums.sum += static_cast<double>(v);
        squares.sum += static_cast<double>(v) * static_cast<double>(v);
      },
      [&] {
        sums.flush();
        squares.flush();
      });
  sum = sums.sum;
  square = squares.sum;
}

template <typename T, typename A>
void plane_moments(const T* x, double* mean, A* var, int64_t length, int64_t begin, int64_t end) {
  // Planes at a time, whose divisions would otherwise be waited for, one after the other.
  constexpr int64_t kPlanes = 64;
  A centers[kPlanes];
  double sums[kPlanes], squares[kPlanes];
  for (int64_t first = begin; first < end; first += kPlanes) {
    const int64_t size = std::min(kPlanes, end - first);
    // Deviations from any value of the plane keep the square small. Where that value is far from the rest, as the mean
    // then tells, the mean is taken instead.
    for (int64_t i = 0; i < size; ++i) {
      const T* row = x + (first + i) * length;
      centers[i] = static_cast<A>(row[0]);
      sums_about(row, centers[i], length, sums[i], squares[i]);
    }
    if (!moments_about(centers, sums, squares, length, mean + first, var + first, size)) {
      continue;
    }
    for (int64_t i = 0; i < size; ++i) {
      const double deviation = mean[first + i] - static_cast<double>(centers[i]);
      if (deviation * deviation > kFar * static_cast<double>(var[first + i])) {
        const A c = static_cast<A>(mean[first + i]);
        sums_about(x + (first + i) * length, c, length, sums[i], squares[i]);
        moments_about(&c, &sums[i], &squares[i], length, mean + first + i, var + first + i, 1);
      }
    }
  }
}

template <typename T, typename A>
void plane_affine(const T* x, const A* center, const A* scale, const A* shift, A negative_slope, T* y,
                  int64_t length, int64_t begin, int64_t end) {
  with_activation(negative_slope, [&](const auto& activation) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* from = x + plane * length;
      T* to = y + plane * length;
      const A c = center[plane], s = scale[plane], t = shift[plane];
      walk<A>(
          length,
          [&](int64_t i, int) {
            Vector<A> v;
            read_stream(from + i, v);
            write_stream(to + i, activation((v - c) * s + t));
          },
          [&](int64_t i) { to[i] = static_cast<T>(activation((static_cast<A>(from[i]) - c) * s + t)); }, [] {});
    }
  });
}

// With another tensor added before the activation. bits, one for each value of the sum, are written unless nullptr.
template <typename T, typename A>
void plane_affine_add(const T* x, const T* other, const A* center, const A* scale, const A* shift,
                      A negative_slope, T* y, uint8_t* bits, int64_t length, int64_t begin, int64_t end) {
  with_activation(negative_slope, [&](const auto& activation) {
    const int64_t bytes = bit_bytes<A>(length);
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* from = x + plane * length;
      const T* second = other + plane * length;
      T* to = y + plane * length;
      const A c = center[plane], s = scale[plane], t = shift[plane];
      const auto add = [&](uint8_t* row) {
        walk<A>(
            length,
            [&](int64_t i, int) {
              Vector<A> v, z;
              read_stream(from + i, v);
              read_stream(second + i, z);
              v = (v - c) * s + t + z;
              if (row) {
                write_bits<A>(row, i, v);
              }
              write_stream(to + i, activation(v));
            },
            [&](int64_t i) {
              const A v = (static_cast<A>(from[i]) - c) * s + t + static_cast<A>(second[i]);
              if (row) {
                write_bit<A>(row, i, v);
              }
              to[i] = static_cast<T>(activation(v));
            },
            [] {});
      };
      add(bits ? bits + plane * bytes : nullptr);
    }
  });
}

template <typename T, typename A>
void plane_sums(const T* dy, const T* x, const A* center, const A* scale, const A* shift, A negative_slope,
                A* total_dy, A* total_product, int64_t length, int64_t begin, int64_t end) {
  with_activation(negative_slope, [&](const auto& activation) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* gradient = dy + plane * length;
      const T* row = x + plane * length;
      const A c = center[plane], s = scale[plane], t = shift[plane];
      Sums<A> sums, products;
      walk<A>(
          length,
          [&](int64_t i, int part) {
            Vector<A> g, v;
            read_stream(gradient + i, g);
            read_stream(row + i, v);
            v -= c;
            g = activation.gradient(v * s + t, g);
            sums.parts[part] += g;
            products.parts[part] += g * v;
          },
          [&](int64_t i) {
            const A v = static_cast<A>(row[i]) - c;
            const A g = activation.gradient(v * s + t, static_cast<A>(gradient[i]));
            sums.sum += static_cast<double>(g);
            products.sum += static_cast<double>(g * v);
          },
          [&] {
            sums.flush();
            products.flush();
          });
      total_dy[plane] = static_cast<A>(sums.sum);
      total_product[plane] = static_cast<A>(products.sum);
    }
  });
}

// The same where the activation's input is told by its bits; dz is the gradient there.
template <typename T, typename A>
void plane_sums_add(const T* dy, const T* x, const uint8_t* bits, const A* center, A negative_slope, T* dz,
                    A* total_dy, A* total_product, int64_t length, int64_t begin, int64_t end) {
  const LeakyRelu<A> activation{negative_slope};
  const int64_t bytes = bit_bytes<A>(length);
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* gradient = dy + plane * length;
    const T* row = x + plane * length;
    const uint8_t* below = bits + plane * bytes;
    T* to = dz + plane * length;
    const A c = center[plane];
    Sums<A> sums, products;
    walk<A>(
        length,
        [&](int64_t i, int part) {
          Vector<A> g, v;
          read_stream(gradient + i, g);
          read_stream(row + i, v);
          g = masked<A>(below, i, g, activation);
          write_stream(to + i, g);
          sums.parts[part] += g;
          products.parts[part] += g * (v - c);
        },
        [&](int64_t i) {
          const A g = masked<A>(below, i, static_cast<A>(gradient[i]), activation);
          to[i] = static_cast<T>(g);
          sums.sum += static_cast<double>(g);
          products.sum += static_cast<double>(g * (static_cast<A>(row[i]) - c));
        },
        [&] {
          sums.flush();
          products.flush();
        });
    total_dy[plane] = static_cast<A>(sums.sum);
    total_product[plane] = static_cast<A>(products.sum);
  }
}

template <typename T, typename A>
void plane_gradient(const T* dy, const T* x, const A* center, const A* scale, const A* shift,
                    A negative_slope, const A* slope, const A* offset, T* dx, int64_t length, int64_t begin,
                    int64_t end) {
  with_activation(negative_slope, [&](const auto& activation) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* gradient = dy + plane * length;
      const T* from = x + plane * length;
      T* to = dx + plane * length;
      const A c = center[plane], s = scale[plane], t = shift[plane], k = slope[plane], o = offset[plane];
      walk<A>(
          length,
          [&](int64_t i, int) {
            Vector<A> g, v;
            read_stream(gradient + i, g);
            read_stream(from + i, v);
            v -= c;
            g = activation.gradient(v * s + t, g);
            write_stream(to + i, g * s + v * k + o);
          },
          [&](int64_t i) {
            const A v = static_cast<A>(from[i]) - c;
            const A g = activation.gradient(v * s + t, static_cast<A>(gradient[i]));
            to[i] = static_cast<T>(g * s + v * k + o);
          },
          [] {});
    }
  });
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

// Rows that are summed in the accumulation type before they are added to doubles.
constexpr int64_t kRows = 64;

// Values between one and that of the same channel which is asked for at the same time: at least kAhead within a tile.
template <typename T>
inline int64_t rows_ahead(int64_t channels) {
  const int64_t width = std::min(kTile, channels) * static_cast<int64_t>(sizeof(T));
  return std::max<int64_t>(4, kAhead / width) * channels;
}

// Calls f(row, i, size) for rows, or for pieces of them, `size` values from channel i on: then the numbers of a piece's
// planes stay in the fastest cache for all rows. Without pieces they are walked through in the order of memory.
template <typename F>
inline void for_pieces(int64_t channels, int64_t begin, int64_t end, bool in_pieces, const F& f) {
  const int64_t width = in_pieces ? kTile : channels;
  for (int64_t i = 0; i < channels; i += width) {
    for (int64_t row = begin; row < end; ++row) {
      f(row, i, std::min(width, channels - i));
    }
  }
}

// Two sums over the rows for each channel; full and single add what the values of a row from channel i on contribute.
// Four rows together are less work. One after the other they are read in the order of memory.
template <typename A, typename Full, typename Single>
inline void sum_rows(double* first_sum, double* second_sum, int64_t channels, int64_t begin, int64_t end, bool together,
                     const Full& full, const Single& single) {
  alignas(64) A a[kTile], b[kTile];
  for (int64_t rows = begin; rows < end; rows += kRows) {
    const int64_t last = std::min(rows + kRows, end);
    for (int64_t tile = 0; tile < channels; tile += kTile) {
      const int64_t width = std::min(kTile, channels - tile);
      std::fill(a, a + width, A(0));
      std::fill(b, b + width, A(0));
      int64_t row = rows;
      for (; together && row + 4 <= last; row += 4) {
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
                 int64_t end, bool together) {
  const int64_t ahead = rows_ahead<T>(channels);
  sum_rows<A>(
      sum, square, channels, begin, end, together,
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
void row_affine(const T* x, const A* center, const A* scale, const A* shift, A negative_slope, T* y,
                int64_t channels, int64_t begin, int64_t end, bool in_pieces) {
  with_activation(negative_slope, [&](const auto& activation) {
    const int64_t ahead = in_pieces ? rows_ahead<T>(channels) : kAhead / static_cast<int64_t>(sizeof(T));
    for_pieces(channels, begin, end, in_pieces, [&](int64_t row, int64_t first, int64_t size) {
      const T* from = x + row * channels + first;
      T* to = y + row * channels + first;
      const A *centers = center + first, *scales = scale + first, *shifts = shift + first;
      along_channels<A>(
          size,
          [&](int64_t i) {
            Vector<A> v, c, s, t;
            read_stream(from + i, v, ahead);
            read(centers + i, c);
            read(scales + i, s);
            read(shifts + i, t);
            write_stream(to + i, activation((v - c) * s + t), ahead);
          },
          [&](int64_t i) {
            to[i] = static_cast<T>(activation((static_cast<A>(from[i]) - centers[i]) * scales[i] + shifts[i]));
          });
    });
  });
}

template <typename T, typename A>
void row_affine_add(const T* x, const T* other, const A* center, const A* scale, const A* shift,
                    A negative_slope, T* y, uint8_t* bits, int64_t channels, int64_t begin, int64_t end) {
  with_activation(negative_slope, [&](const auto& activation) {
    const int64_t bytes = bit_bytes<A>(channels);
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x + row * channels;
      const T* second = other + row * channels;
      T* to = y + row * channels;
      uint8_t* below = bits ? bits + row * bytes : nullptr;
      along_channels<A>(
          channels,
          [&](int64_t i) {
            Vector<A> v, z, c, s, t;
            read_stream(from + i, v);
            read_stream(second + i, z);
            read(center + i, c);
            read(scale + i, s);
            read(shift + i, t);
            v = (v - c) * s + t + z;
            if (below) {
              write_bits<A>(below, i, v);
            }
            write_stream(to + i, activation(v));
          },
          [&](int64_t i) {
            const A v = (static_cast<A>(from[i]) - center[i]) * scale[i] + shift[i] + static_cast<A>(second[i]);
            if (below) {
              write_bit<A>(below, i, v);
            }
            to[i] = static_cast<T>(activation(v));
          });
    }
  });
}

template <typename T, typename A>
void row_sums(const T* dy, const T* x, const A* center, const A* scale, const A* shift, A negative_slope,
              double* sum, double* product, int64_t channels, int64_t begin, int64_t end, bool together) {
  with_activation(negative_slope, [&](const auto& activation) {
    const int64_t ahead = rows_ahead<T>(channels);
    sum_rows<A>(
        sum, product, channels, begin, end, together,
        [&](int64_t row, int64_t i, Vector<A>& total, Vector<A>& products) {
          Vector<A> g, v, c, s, t;
          read_stream(dy + row * channels + i, g, ahead);
          read_stream(x + row * channels + i, v, ahead);
          read(center + i, c);
          read(scale + i, s);
          read(shift + i, t);
          v -= c;
          g = activation.gradient(v * s + t, g);
          total += g;
          products += g * v;
        },
        [&](int64_t row, int64_t i, A& total, A& products) {
          const A v = static_cast<A>(x[row * channels + i]) - center[i];
          const A g = activation.gradient(v * scale[i] + shift[i], static_cast<A>(dy[row * channels + i]));
          total += g;
          products += g * v;
        });
  });
}

template <typename T, typename A>
void row_sums_add(const T* dy, const T* x, const uint8_t* bits, const A* center, A negative_slope, T* dz,
                  double* sum, double* product, int64_t channels, int64_t begin, int64_t end, bool together) {
  const LeakyRelu<A> activation{negative_slope};
  const int64_t ahead = rows_ahead<T>(channels), bytes = bit_bytes<A>(channels);
  sum_rows<A>(
      sum, product, channels, begin, end, together,
      [&](int64_t row, int64_t i, Vector<A>& total, Vector<A>& products) {
        Vector<A> g, v, c;
        read_stream(dy + row * channels + i, g, ahead);
        read_stream(x + row * channels + i, v, ahead);
        read(center + i, c);
        g = masked<A>(bits + row * bytes, i, g, activation);
        write_stream(dz + row * channels + i, g);
        total += g;
        products += g * (v - c);
      },
      [&](int64_t row, int64_t i, A& total, A& products) {
        const A g = masked<A>(bits + row * bytes, i, static_cast<A>(dy[row * channels + i]), activation);
        dz[row * channels + i] = static_cast<T>(g);
        total += g;
        products += g * (static_cast<A>(x[row * channels + i]) - center[i]);
      });
}

template <typename T, typename A>
void row_gradient(const T* dy, const T* x, const A* center, const A* scale, const A* shift, A negative_slope,
                  const A* slope, const A* offset, T* dx, int64_t channels, int64_t begin, int64_t end,
                  bool in_pieces) {
  with_activation(negative_slope, [&](const auto& activation) {
    const int64_t ahead = in_pieces ? rows_ahead<T>(channels) : kAhead / static_cast<int64_t>(sizeof(T));
    for_pieces(channels, begin, end, in_pieces, [&](int64_t row, int64_t first, int64_t size) {
      const T* gradient = dy + row * channels + first;
      const T* from = x + row * channels + first;
      T* to = dx + row * channels + first;
      const A *centers = center + first, *scales = scale + first, *shifts = shift + first, *slopes = slope + first,
              *offsets = offset + first;
      along_channels<A>(
          size,
          [&](int64_t i) {
            Vector<A> g, v, c, s, t, k, o;
            read_stream(gradient + i, g, ahead);
            read_stream(from + i, v, ahead);
            read(centers + i, c);
            read(scales + i, s);
            read(shifts + i, t);
            read(slopes + i, k);
            read(offsets + i, o);
            v -= c;
            g = activation.gradient(v * s + t, g);
            write_stream(to + i, g * s + v * k + o, ahead);
          },
          [&](int64_t i) {
            const A v = static_cast<A>(from[i]) - centers[i];
            const A g = activation.gradient(v * scales[i] + shifts[i], static_cast<A>(gradient[i]));
            to[i] = static_cast<T>(g * scales[i] + v * slopes[i] + offsets[i]);
          });
    });
  });
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
