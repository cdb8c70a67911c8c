// The loops of the kinds of mixing, for one set of vector instructions; instructions.h includes this file once for each.
// What they compute, with the same symbols, is described in mmnorm/ops/coefficients.
//
// T is the type that is computed in. Means are in double: they may be large from their differences. Arrays of planes are
// (N, C), those of all normalizers (K, N, C); a loop over k walks through the latter in steps of N * C. What pools and
// mixing share is in shared_kernels.h.

namespace mmnorm {
namespace MMNORM_CPU {

// Mixing of statistics. ratios, (2, K), are those of the means and those of the variances.

template <typename T>
void mix_statistics(const T* deviation, const T* variance, const T* ratios, const T* weight, const T* bias, T eps,
                    T* scale, T* shift, const Planes& p) {
  for (int64_t n = 0; n < p.samples; ++n) {
    const int64_t first = n * p.channels;
    T *s = scale + first, *t = shift + first;
    std::fill(s, s + p.channels, eps);
    std::fill(t, t + p.channels, T(0));
    for (int64_t k = 0; k < p.normalizers; ++k) {
      const T *d = deviation + k * p.planes() + first, *v = variance + k * p.planes() + first;
      const T mean_ratio = ratios[k], var_ratio = ratios[p.normalizers + k];
#pragma omp simd
      for (int64_t c = 0; c < p.channels; ++c) {
        t[c] += mean_ratio * d[c];
        s[c] += var_ratio * v[c];
      }
    }
#pragma omp simd
    for (int64_t c = 0; c < p.channels; ++c) {
      s[c] = inverse_sqrt(s[c]) * (weight == nullptr ? T(1) : weight[c]);
      t[c] = s[c] * t[c] + (bias == nullptr ? T(0) : bias[c]);
    }
  }
}

template <typename T>
void mix_statistics_backward(const T* deviation, const T* variance, const T* ratios, const T* weight, T eps,
                             const T* dscale, const T* dshift, T* ddeviation, T* dvariance, T* dratios, T* dweight,
                             T* dbias, const Planes& p) {
  std::vector<double> sums(2 * p.normalizers);
  std::vector<T> buffer(2 * p.channels);
  T *d = buffer.data(), *v = d + p.channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    const int64_t first = n * p.channels;
    const T *ds = dscale + first, *dt = dshift + first;
    std::fill(d, d + p.channels, T(0));
    std::fill(v, v + p.channels, eps);
    for (int64_t k = 0; k < p.normalizers; ++k) {
      const T *dk = deviation + k * p.planes() + first, *vk = variance + k * p.planes() + first;
      const T mean_ratio = ratios[k], var_ratio = ratios[p.normalizers + k];
#pragma omp simd
      for (int64_t c = 0; c < p.channels; ++c) {
        d[c] += mean_ratio * dk[c];
        v[c] += var_ratio * vk[c];
      }
    }
    // From here on d and v are the gradients of the mixed deviation and of the mixed variance.
#pragma omp simd
    for (int64_t c = 0; c < p.channels; ++c) {
      const T inv_std = inverse_sqrt(v[c]), scale = inv_std * (weight == nullptr ? T(1) : weight[c]);
      const T total = ds[c] + dt[c] * d[c];
      dweight[c] += total * inv_std;
      dbias[c] += dt[c];
      v[c] = T(-0.5) * total * scale * inv_std * inv_std;
      d[c] = dt[c] * scale;
    }
    for (int64_t k = 0; k < p.normalizers; ++k) {
      const int64_t at = k * p.planes() + first;
      const T mean_ratio = ratios[k], var_ratio = ratios[p.normalizers + k];
      T a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
      for (int64_t c = 0; c < p.channels; ++c) {
        a += d[c] * deviation[at + c];
        b += v[c] * variance[at + c];
        ddeviation[at + c] = mean_ratio * d[c];
        dvariance[at + c] = var_ratio * v[c];
      }
      sums[k] += static_cast<double>(a);
      sums[p.normalizers + k] += static_cast<double>(b);
    }
  }
  std::transform(sums.begin(), sums.end(), dratios, [](double sum) { return static_cast<T>(sum); });
}

// Mixing of outputs. ratios are (N, K); weight is (K, C), or (C,) with weight_stride 0; bias, (C,), the sum of the betas.

template <typename T>
void mix_outputs(const T* deviation, const T* variance, const T* ratios, const T* weight, int64_t weight_stride,
                 const T* bias, T eps, T* scale, T* shift, const Planes& p) {
  for (int64_t n = 0; n < p.samples; ++n) {
    const int64_t first = n * p.channels;
    T *s = scale + first, *t = shift + first;
    std::fill(s, s + p.channels, T(0));
    if (bias == nullptr) {
      std::fill(t, t + p.channels, T(0));
    } else {
      std::copy(bias, bias + p.channels, t);
    }
    for (int64_t k = 0; k < p.normalizers; ++k) {
      const T *d = deviation + k * p.planes() + first, *v = variance + k * p.planes() + first;
      const T ratio = ratios[n * p.normalizers + k];
      const T* w = weight == nullptr ? nullptr : weight + k * weight_stride;
#pragma omp simd
      for (int64_t c = 0; c < p.channels; ++c) {
        const T gain = (w == nullptr ? ratio : ratio * w[c]) * inverse_sqrt(v[c] + eps);
        s[c] += gain;
        t[c] += gain * d[c];
      }
    }
  }
}

template <typename T>
void mix_outputs_backward(const T* deviation, const T* variance, const T* ratios, const T* weight, int64_t weight_stride,
                          T eps, const T* dscale, const T* dshift, T* ddeviation, T* dvariance, T* dratios, T* dweight,
                          T* dbias, const Planes& p) {
  for (int64_t n = 0; n < p.samples; ++n) {
    const int64_t first = n * p.channels;
    const T *ds = dscale + first, *dt = dshift + first;
    add(dbias, dt, p.channels);
    for (int64_t k = 0; k < p.normalizers; ++k) {
      const int64_t at = k * p.planes() + first;
      const T *d = deviation + at, *v = variance + at;
      const T ratio = ratios[n * p.normalizers + k];
      const T* w = weight == nullptr ? nullptr : weight + k * weight_stride;
      T *dw = dweight + k * weight_stride, *dd = ddeviation + at, *dv = dvariance + at;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < p.channels; ++c) {
        const T gamma = w == nullptr ? T(1) : w[c];
        const T inv_std = inverse_sqrt(v[c] + eps), gain = ratio * gamma;
        const T total = (ds[c] + dt[c] * d[c]) * inv_std;
        dw[c] += total * ratio;
        sum += total * gamma;
        dd[c] = dt[c] * gain * inv_std;
        dv[c] = T(-0.5) * total * gain * inv_std * inv_std;
      }
      dratios[n * p.normalizers + k] = sum;
    }
  }
}

// Correlations of the normalized means. z is (N, K, C/r), features (N, K, K). Without a convolution conv is nullptr and r
// is 1: z are the normalized means themselves.

template <typename T>
void correlate(const T* deviation, const T* variance, const T* conv, int64_t r, T eps, T* z, T* features,
               const Planes& p) {
  const int64_t channels = p.channels, size = p.normalizers, width = channels / r;
  std::vector<T> hat(channels);
  for (int64_t n = 0; n < p.samples; ++n) {
    T* rows = z + n * size * width;
    for (int64_t k = 0; k < size; ++k) {
      const T *d = deviation + (k * p.samples + n) * channels, *v = variance + (k * p.samples + n) * channels;
      T* row = rows + k * width;
      T* h = conv == nullptr ? row : hat.data();
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        h[c] = d[c] * inverse_sqrt(v[c] + eps) * (conv == nullptr ? T(1) : conv[c]);
      }
      for (int64_t j = 0; conv != nullptr && j < width; ++j) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = j * r; c < (j + 1) * r; ++c) {
          sum += h[c];
        }
        row[j] = sum;
      }
    }
    for (int64_t a = 0; a < size; ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; ++j) {
          sum += rows[a * width + j] * rows[b * width + j];
        }
        features[(n * size + a) * size + b] = features[(n * size + b) * size + a] = sum;
      }
    }
  }
}

template <typename T>
void correlate_backward(const T* deviation, const T* variance, const T* conv, int64_t r, T eps, const T* z,
                        const T* dfeatures, T* ddeviation, T* dvariance, T* dconv, const Planes& p) {
  const int64_t channels = p.channels, size = p.normalizers, width = channels / r;
  std::vector<T> buffer(width + channels);
  T *dz = buffer.data(), *spread = dz + width;
  for (int64_t n = 0; n < p.samples; ++n) {
    for (int64_t k = 0; k < size; ++k) {
      const int64_t at = (k * p.samples + n) * channels;
      const T *d = deviation + at, *v = variance + at;
      std::fill(dz, dz + width, T(0));
      for (int64_t other = 0; other < size; ++other) {
        const T factor = dfeatures[(n * size + k) * size + other] + dfeatures[(n * size + other) * size + k];
        const T* row = z + (n * size + other) * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
          dz[j] += factor * row[j];
        }
      }
      for (int64_t j = 0; conv != nullptr && j < width; ++j) {
        std::fill(spread + j * r, spread + (j + 1) * r, dz[j]);
      }
      const T* g = conv == nullptr ? dz : spread;
      T *dd = ddeviation + at, *dv = dvariance + at;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const T inv_std = inverse_sqrt(v[c] + eps), hat = d[c] * inv_std;
        const T dhat = g[c] * (conv == nullptr ? T(1) : conv[c]);
        dconv[c] += g[c] * hat;
        dd[c] = dhat * inv_std;
        dv[c] = T(-0.5) * dhat * hat * inv_std * inv_std;
      }
    }
  }
}

// Predicted rescaling of one normalizer: omega and beta are (N, G), of neighbouring channels.

template <typename T>
void rescale(const T* deviation, const T* variance, const T* omega, const T* beta, const T* weight, const T* bias, T eps,
             T* scale, T* shift, int64_t groups, const Planes& p) {
  const int64_t size = p.channels / groups;
  for (int64_t i = 0; i < p.samples * groups; ++i) {
    const int64_t first = i * size, channel = (i % groups) * size;
    const T *w = weight == nullptr ? nullptr : weight + channel, *b = bias == nullptr ? nullptr : bias + channel;
#pragma omp simd
    for (int64_t c = 0; c < size; ++c) {
      const T gain = omega[i] + (w == nullptr ? T(1) : w[c]);
      const T s = gain * inverse_sqrt(variance[first + c] + eps);
      scale[first + c] = s;
      shift[first + c] = s * deviation[first + c] + beta[i] + (b == nullptr ? T(0) : b[c]);
    }
  }
}

template <typename T>
void rescale_backward(const T* deviation, const T* variance, const T* omega, const T* weight, T eps, const T* dscale,
                      const T* dshift, T* ddeviation, T* dvariance, T* domega, T* dbeta, T* dweight, T* dbias,
                      int64_t groups, const Planes& p) {
  const int64_t size = p.channels / groups;
  for (int64_t i = 0; i < p.samples * groups; ++i) {
    const int64_t first = i * size, channel = (i % groups) * size;
    const T* w = weight == nullptr ? nullptr : weight + channel;
    T o = 0, b = 0;
#pragma omp simd reduction(+ : o, b)
    for (int64_t c = 0; c < size; ++c) {
      const T inv_std = inverse_sqrt(variance[first + c] + eps), gain = omega[i] + (w == nullptr ? T(1) : w[c]);
      const T dt = dshift[first + c], dgain = (dscale[first + c] + dt * deviation[first + c]) * inv_std;
      dweight[channel + c] += dgain;
      dbias[channel + c] += dt;
      ddeviation[first + c] = dt * gain * inv_std;
      dvariance[first + c] = T(-0.5) * dgain * gain * inv_std * inv_std;
      o += dgain;
      b += dt;
    }
    domega[i] = o;
    dbeta[i] = b;
  }
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
