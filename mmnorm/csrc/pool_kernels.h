// The loops of the pools, for one set of vector instructions; instructions.h includes this file once for each.
// What they compute, with the same symbols, is described in mmnorm/ops/coefficients.
//
// T is the type that is computed in. Means are in double: they may be large from their differences. Arrays of planes are
// (N, C), those of all normalizers (K, N, C); a loop over k walks through the latter in steps of N * C. What pools and
// mixing share is in shared_kernels.h.

namespace mmnorm {
namespace MMNORM_CPU {

// The mean and the biased variance of `size` planes, by the law of total variance.
template <typename T>
inline void pool_planes(const double* mean, const T* var, int64_t size, double& mu, double& v) {
  double total = 0, square = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < size; ++c) {
    total += mean[c];
  }
  const double center = total / size;
#pragma omp simd reduction(+ : square)
  for (int64_t c = 0; c < size; ++c) {
    square += static_cast<double>(var[c]) + (mean[c] - center) * (mean[c] - center);
  }
  mu = center;
  v = square / size;
}

// `count` groups of `size` neighbouring planes: their moments, each in one value.
template <typename T>
void group_moments(const double* mean, const T* var, double* mu, T* v, int64_t size, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    double pooled;
    pool_planes(mean + i * size, var + i * size, size, mu[i], pooled);
    v[i] = static_cast<T>(pooled);
  }
}

template <typename T>
void group_moments_backward(const double* mean, const double* mu, const double* dmu, const T* dv, double* dmean, T* dvar,
                            int64_t size, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double a = dmu == nullptr ? 0 : dmu[i] / size, b = dv == nullptr ? 0 : static_cast<double>(dv[i]) / size;
#pragma omp simd
    for (int64_t c = i * size; c < (i + 1) * size; ++c) {
      dmean[c] = a + 2 * b * (mean[c] - mu[i]);
      dvar[c] = static_cast<T>(b);
    }
  }
}

// The pool: deviations of the planes' means from the pooled one, and the pooled variances, of one normalizer.

template <typename T>
void pool_groups(const double* mean, const T* var, T* deviation, T* variance, int64_t size, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    double mu, v;
    pool_planes(mean + i * size, var + i * size, size, mu, v);
    const T pooled = static_cast<T>(v);
#pragma omp simd
    for (int64_t c = i * size; c < (i + 1) * size; ++c) {
      deviation[c] = static_cast<T>(mean[c] - mu);
      variance[c] = pooled;
    }
  }
}

template <typename T>
void pool_groups_backward(const T* deviation, const T* ddeviation, const T* dvariance, double* dmean, T* dvar,
                          int64_t size, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    double a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
    for (int64_t c = i * size; c < (i + 1) * size; ++c) {
      a += static_cast<double>(ddeviation[c]);
      b += static_cast<double>(dvariance[c]);
    }
    a /= size;
    b /= size;
#pragma omp simd
    for (int64_t c = i * size; c < (i + 1) * size; ++c) {
      dmean[c] += ddeviation[c] - a + 2 * b * deviation[c];
      dvar[c] += static_cast<T>(b);
    }
  }
}

// The moments of each channel over the samples, (C,).
template <typename T>
void batch_moments(const double* mean, const T* var, double* mu, double* v, int64_t samples, int64_t channels) {
  std::fill(mu, mu + channels, 0);
  std::fill(v, v + channels, 0);
  for (int64_t n = 0; n < samples; ++n) {
    const double* m = mean + n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      mu[c] += m[c];
    }
  }
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    mu[c] /= samples;
  }
  for (int64_t n = 0; n < samples; ++n) {
    const double* m = mean + n * channels;
    const T* w = var + n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      v[c] += static_cast<double>(w[c]) + (m[c] - mu[c]) * (m[c] - mu[c]);
    }
  }
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    v[c] /= samples;
  }
}

// Moments of each channel, (C,), given to all samples.
template <typename T>
void spread_batch(const double* mean, const double* mu, const double* v, T* deviation, T* variance, int64_t samples,
                  int64_t channels) {
  for (int64_t n = 0; n < samples; ++n) {
    const int64_t first = n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      deviation[first + c] = static_cast<T>(mean[first + c] - mu[c]);
      variance[first + c] = static_cast<T>(v[c]);
    }
  }
}

// Sums over the samples, (C,), of what goes to the deviations and to the variances.
template <typename T>
void sum_batch(const T* ddeviation, const T* dvariance, double* a, double* b, int64_t samples, int64_t channels) {
  std::fill(a, a + channels, 0);
  std::fill(b, b + channels, 0);
  for (int64_t n = 0; n < samples; ++n) {
    const int64_t first = n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      a[c] += static_cast<double>(ddeviation[first + c]);
      b[c] += static_cast<double>(dvariance[first + c]);
    }
  }
}

// What a pool over the samples sends back; with a and b nullptr, moments that do not depend on these planes.
template <typename T>
void pool_batch_backward(const T* deviation, const T* ddeviation, const double* a, const double* b, double* dmean,
                         T* dvar, int64_t samples, int64_t channels) {
  for (int64_t n = 0; n < samples; ++n) {
    const int64_t first = n * channels;
    if (a == nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        dmean[first + c] += ddeviation[first + c];
      }
      continue;
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      dmean[first + c] += ddeviation[first + c] + (2 * b[c] * deviation[first + c] - a[c]) / samples;
      dvar[first + c] += static_cast<T>(b[c] / samples);
    }
  }
}

template <typename T>
void track(T* running_mean, T* running_var, const double* mean, const double* var, double factor, double unbias,
           int64_t channels) {
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    running_mean[c] += static_cast<T>(factor * (mean[c] - running_mean[c]));
    running_var[c] += static_cast<T>(factor * (unbias * var[c] - running_var[c]));
  }
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
