// Loops over the numbers of planes, a few each, for one set of vector instructions; core.cpp includes it. On small maps
// there are so many of them that they count.

namespace mmnorm {
namespace MMNORM_CPU {

template <typename From, typename To>
void convert(const From* from, To* to, double factor, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    to[i] = static_cast<To>(factor * static_cast<double>(from[i]));
  }
}

// shift of scale * (x - center) + shift, from that of scale * (x - mean) + factor * shift.
template <typename A, typename S>
void shift_for_center(const double* mean, const A* center, const A* scale, const S* shift, double factor, A* to,
                      int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const double rest = mean[i] - static_cast<double>(center[i]);
    to[i] = static_cast<A>(factor * static_cast<double>(shift[i])) - static_cast<A>(static_cast<double>(scale[i]) * rest);
  }
}

// Sums of g * (x - center) to those of g * (x - mean), given those of g.
template <typename A>
void about_the_mean(const double* mean, const A* center, const A* total, A* product, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    product[i] -= static_cast<A>(mean[i] - static_cast<double>(center[i])) * total[i];
  }
}

// -scale * total, in double.
template <typename S, typename A>
void mean_gradient(const S* scale, const A* total, double* to, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    to[i] = -static_cast<double>(scale[i]) * static_cast<double>(total[i]);
  }
}

// The mean of a few of the rows of a sample: a value near those of each channel.
template <typename T, typename A>
void mean_of_some_rows(const T* x, A* center, int64_t channels, int64_t length) {
  const int64_t picked = std::min<int64_t>(length, 16);
  const A weight = A(1) / static_cast<A>(picked);
  std::fill(center, center + channels, A(0));
  for (int64_t pick = 0; pick < picked; ++pick) {
    const T* row = x + pick * length / picked * channels;
#pragma omp simd
    for (int64_t i = 0; i < channels; ++i) {
      center[i] += static_cast<A>(row[i]) * weight;
    }
  }
}

// Mean and variance from the sums of the deviations from `center` and of their squares, over `length` values each.
// Returned is whether a mean is too far from its center for that.
template <typename A>
bool moments_about(const A* center, const double* sum, const double* square, int64_t length, double* mean, A* var,
                   int64_t size) {
  const double weight = 1.0 / static_cast<double>(length);
  int far = 0;
#pragma omp simd reduction(| : far)
  for (int64_t i = 0; i < size; ++i) {
    const double deviation = sum[i] * weight;
    const double variance = square[i] * weight - deviation * deviation;
    mean[i] = static_cast<double>(center[i]) + deviation;
    var[i] = static_cast<A>(variance < 0 ? 0 : variance);  // NaN stays NaN
    far |= deviation * deviation > kFar * variance;
  }
  return far != 0;
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
