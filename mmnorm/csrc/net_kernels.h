// Fully connected layers of a few numbers, for one set of vector instructions; nets.cpp includes it. x is (N, I), w is
// (O, I), y is (N, O). Loops run along the longer of I and O, which takes the transpose of w where that is O.

namespace mmnorm {
namespace MMNORM_CPU {

template <typename T>
inline void add_multiple(T* into, T factor, const T* from, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    into[i] += factor * from[i];
  }
}

template <typename T>
inline T dot(const T* a, const T* b, int64_t size) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

template <typename T>
std::vector<T> transposed(const T* from, int64_t rows, int64_t columns) {
  std::vector<T> to(rows * columns);
  for (int64_t i = 0; i < rows * columns; ++i) {
    to[i % columns * rows + i / columns] = from[i];
  }
  return to;
}

// y = x w^T + b
template <typename T>
void linear(const T* x, const T* w, const T* b, T* y, int64_t samples, int64_t in, int64_t out) {
  const std::vector<T> t = in < out ? transposed(w, out, in) : std::vector<T>();
  for (int64_t n = 0; n < samples; ++n, x += in, y += out) {
    for (int64_t o = 0; o < out; ++o) {
      y[o] = (b == nullptr ? T(0) : b[o]) + (in < out ? T(0) : dot(x, w + o * in, in));
    }
    for (int64_t i = 0; in < out && i < in; ++i) {
      add_multiple(y, x[i], t.data() + i * out, out);
    }
  }
}

// dx = dy w, dw = dy^T x, db = sum of dy
template <typename T>
void linear_backward(const T* dy, const T* x, const T* w, T* dx, T* dw, T* db, int64_t samples, int64_t in, int64_t out) {
  const std::vector<T> t = in < out ? transposed(w, out, in) : std::vector<T>();
  std::vector<T> dt(t.size());
  std::fill(dx, dx + samples * in, T(0));
  std::fill(dw, dw + in * out, T(0));
  std::fill(db, db + out, T(0));
  for (int64_t n = 0; n < samples; ++n, dy += out, x += in, dx += in) {
    add(db, dy, out);
    for (int64_t o = 0; in >= out && o < out; ++o) {
      add_multiple(dx, dy[o], w + o * in, in);
      add_multiple(dw + o * in, dy[o], x, in);
    }
    for (int64_t i = 0; in < out && i < in; ++i) {
      dx[i] = dot(dy, t.data() + i * out, out);
      add_multiple(dt.data() + i * out, x[i], dy, out);
    }
  }
  if (in < out) {
    const std::vector<T> result = transposed(dt.data(), in, out);
    std::copy(result.begin(), result.end(), dw);
  }
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
