// The loops of the coefficients, for one set of vector instructions; instructions.h includes this file once for each. What they
// compute, with the same symbols, is described in mmnorm/ops/closed_form.
//
// T is the type that is computed in. Pooled means are subtracted in double: they may be large from the deviations.

namespace mmnorm {
namespace MMNORM_CPU {

// Pooling over the channels of a group, a row of G values to each sample.
template <typename T>
void pool_groups(const double* mean, const T* var, double* mu, T* v, int64_t samples, int64_t channels,
                 int64_t groups) {
  const int64_t size = channels / groups;
  for (int64_t i = 0; i < samples * groups; ++i) {
    const double* m = mean + i * size;
    const T* w = var + i * size;
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < size; ++c) {
      total += m[c];
    }
    const double center = total / size;
    double square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t c = 0; c < size; ++c) {
      square += static_cast<double>(w[c]) + (m[c] - center) * (m[c] - center);
    }
    mu[i] = center;
    v[i] = static_cast<T>(square / size);
  }
}

// Pooling over the samples, a value to each channel.
template <typename T>
void pool_batch(const double* mean, const T* var, double* mu, T* v, int64_t samples, int64_t channels) {
  std::vector<double> square(channels, 0);
  std::fill(mu, mu + channels, 0);
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
      square[c] += static_cast<double>(w[c]) + (m[c] - mu[c]) * (m[c] - mu[c]);
    }
  }
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    v[c] = static_cast<T>(square[c] / samples);
  }
}

template <typename T>
void track(T* running_mean, T* running_var, const double* mean, const T* var, double factor, double unbias,
           int64_t channels) {
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    running_mean[c] += static_cast<T>(factor * (mean[c] - running_mean[c]));
    running_var[c] += static_cast<T>(factor * (unbias * var[c] - running_var[c]));
  }
}

template <typename T>
inline T inverse_sqrt(T v) {
  return T(1) / std::sqrt(v);
}

// One sample's deviations of the planes' centers from the pooled mean, (C,).
template <typename T>
inline void deviations(const Pooled<T>& p, int64_t k, int64_t n, T* d) {
  const T* center = p.center + n * p.channels;
  const double* mu = p.mean[k];
  if (p.kinds[k] == Kind::Group) {
    const int64_t groups = p.groups[k], size = p.channels / groups;
    for (int64_t g = 0; g < groups; ++g) {
      const double m = mu[n * groups + g];
#pragma omp simd
      for (int64_t c = g * size; c < (g + 1) * size; ++c) {
        d[c] = static_cast<T>(static_cast<double>(center[c]) - m);
      }
    }
    return;
  }
  if (p.kinds[k] == Kind::Instance) {
    mu += n * p.channels;
  }
#pragma omp simd
  for (int64_t c = 0; c < p.channels; ++c) {
    d[c] = static_cast<T>(static_cast<double>(center[c]) - mu[c]);
  }
}

// One sample's pooled variances, (C,).
template <typename T>
inline void variances(const Pooled<T>& p, int64_t k, int64_t n, T* v) {
  const T* var = p.var[k];
  if (p.kinds[k] == Kind::Group) {
    const int64_t groups = p.groups[k], size = p.channels / groups;
    for (int64_t g = 0; g < groups; ++g) {
      std::fill(v + g * size, v + (g + 1) * size, var[n * groups + g]);
    }
    return;
  }
  if (p.kinds[k] == Kind::Instance) {
    var += n * p.channels;
  }
  std::copy(var, var + p.channels, v);
}

// One sample's inverse standard deviations, (C,). `batch` holds those of BN, (C,), which all samples share.
template <typename T>
inline void inverse_stds(const Pooled<T>& p, int64_t k, int64_t n, T eps, const std::vector<T>& batch,
                         T* inv) {
  const T* var = p.var[k];
  if (p.kinds[k] == Kind::Group) {
    const int64_t groups = p.groups[k], size = p.channels / groups;
    for (int64_t g = 0; g < groups; ++g) {
      std::fill(inv + g * size, inv + (g + 1) * size, inverse_sqrt(var[n * groups + g] + eps));
    }
  } else if (p.kinds[k] == Kind::Instance) {
    var += n * p.channels;
#pragma omp simd
    for (int64_t c = 0; c < p.channels; ++c) {
      inv[c] = inverse_sqrt(var[c] + eps);
    }
  } else {
    std::copy(batch.begin(), batch.end(), inv);
  }
}

template <typename T>
inline std::vector<T> batch_inverse_stds(const Pooled<T>& p, T eps) {
  std::vector<T> inv(p.channels);
  for (int64_t k = 0; k < p.size; ++k) {
    if (p.kinds[k] == Kind::Batch || p.kinds[k] == Kind::Running) {
#pragma omp simd
      for (int64_t c = 0; c < p.channels; ++c) {
        inv[c] = inverse_sqrt(p.var[k][c] + eps);
      }
    }
  }
  return inv;
}

// What a normalizer sends back to one sample's means and variances, added to dmean and dvar, (C,).
//
// ddeviation and dvariance are the gradients of its deviations and variances, times 1/alpha and 1/beta. What BN sends
// back depends on all samples: its sums are added to `sums`, (2, C), for spread_batch.
template <typename T>
inline void pool_gradients(const Pooled<T>& p, int64_t k, const T* d, const T* ddeviation, const T* dvariance, T alpha,
                           T beta, T* sums, T* dmean, T* dvar) {
  const int64_t channels = p.channels;
  switch (p.kinds[k]) {
    case Kind::Instance:
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        dmean[c] -= alpha * ddeviation[c];
        dvar[c] += beta * dvariance[c];
      }
      break;
    case Kind::Group: {
      const int64_t groups = p.groups[k], size = channels / groups;
      for (int64_t first = 0; first < channels; first += size) {
        T a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
        for (int64_t c = first; c < first + size; ++c) {
          a += ddeviation[c];
          b += dvariance[c];
        }
        a *= alpha / size;
        b *= beta / size;
#pragma omp simd
        for (int64_t c = first; c < first + size; ++c) {
          dmean[c] += 2 * b * d[c] - a;
          dvar[c] += b;
        }
      }
      break;
    }
    case Kind::Batch:
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        sums[c] += alpha * ddeviation[c];
        sums[channels + c] += beta * dvariance[c];
      }
      break;
    case Kind::Running:
      break;
  }
}

// BN's part, once its sums over the samples are known.
template <typename T>
void spread_batch(const Pooled<T>& p, const T* sums, T* dmean, T* dvar) {
  const int64_t channels = p.channels;
  std::vector<T> d(channels);
  for (int64_t k = 0; k < p.size; ++k) {
    if (p.kinds[k] != Kind::Batch) {
      continue;
    }
    for (int64_t n = 0; n < p.samples; ++n) {
      deviations(p, k, n, d.data());
      T *m = dmean + n * channels, *v = dvar + n * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const T b = sums[channels + c] / p.samples;
        m[c] += 2 * b * d[c] - sums[c] / p.samples;
        v[c] += b;
      }
    }
  }
}

// The softmax of a few logits, and the gradient of the logits.
template <typename T>
inline void softmax(const T* logits, T* ratios, int64_t size) {
  const T largest = *std::max_element(logits, logits + size);
  T sum = 0;
  for (int64_t k = 0; k < size; ++k) {
    sum += ratios[k] = std::exp(logits[k] - largest);
  }
  for (int64_t k = 0; k < size; ++k) {
    ratios[k] /= sum;
  }
}

template <typename T>
inline void softmax_gradient(const T* ratios, const T* dratios, T* dlogits, int64_t size) {
  T sum = 0;
  for (int64_t k = 0; k < size; ++k) {
    sum += ratios[k] * dratios[k];
  }
  for (int64_t k = 0; k < size; ++k) {
    dlogits[k] = ratios[k] * (dratios[k] - sum);
  }
}

// SN.

// ratios, (2, K), are written: those of the means and those of the variances.
template <typename T>
void switchable_forward(const Pooled<T>& p, const T* mean_logits, const T* var_logits, T* ratios, T eps, const T* weight,
                        const T* bias, T* scale, T* shift, T* deviation, T* inv_std) {
  const int64_t channels = p.channels;
  T *mean_ratios = ratios, *var_ratios = ratios + p.size;
  softmax(mean_logits, mean_ratios, p.size);
  softmax(var_logits, var_ratios, p.size);
  std::vector<T> row(channels);
  for (int64_t n = 0; n < p.samples; ++n) {
    T *d = deviation + n * channels, *v = inv_std + n * channels, *s = scale + n * channels, *t = shift + n * channels;
    std::fill(d, d + channels, T(0));
    std::fill(v, v + channels, eps);
    for (int64_t k = 0; k < p.size; ++k) {
      deviations(p, k, n, row.data());
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        d[c] += mean_ratios[k] * row[c];
      }
      variances(p, k, n, row.data());
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        v[c] += var_ratios[k] * row[c];
      }
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      v[c] = inverse_sqrt(v[c]);
      s[c] = weight == nullptr ? v[c] : v[c] * weight[c];
      t[c] = s[c] * d[c] + (bias == nullptr ? T(0) : bias[c]);
    }
  }
}

// dlogits, (2, K), are the gradients of both logits.
template <typename T>
void switchable_backward(const Pooled<T>& p, const T* ratios, const T* scale,
                         const T* deviation, const T* inv_std, const T* dscale, const T* dshift, T* dmean, T* dvar,
                         T* dweight, T* dbias, T* dlogits) {
  const int64_t channels = p.channels;
  const T *mean_ratios = ratios, *var_ratios = ratios + p.size;
  std::vector<double> dratios(2 * p.size, 0);
  std::vector<T> buffer(6 * channels, T(0));
  T *ddeviation = buffer.data(), *dmixed = ddeviation + channels, *d = dmixed + channels, *v = d + channels,
    *sums = v + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    const int64_t first = n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const T total = dscale[first + c] + dshift[first + c] * deviation[first + c];
      const T inv = inv_std[first + c];
      dweight[c] += total * inv;
      dbias[c] += dshift[first + c];
      dmixed[c] = T(-0.5) * total * scale[first + c] * inv * inv;
      ddeviation[c] = dshift[first + c] * scale[first + c];
    }
    std::fill(dmean + first, dmean + first + channels, T(0));
    std::fill(dvar + first, dvar + first + channels, T(0));
    for (int64_t k = 0; k < p.size; ++k) {
      deviations(p, k, n, d);
      variances(p, k, n, v);
      T a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
      for (int64_t c = 0; c < channels; ++c) {
        a += ddeviation[c] * d[c];
        b += dmixed[c] * v[c];
      }
      dratios[k] += static_cast<double>(a);
      dratios[p.size + k] += static_cast<double>(b);
      pool_gradients(p, k, d, ddeviation, dmixed, mean_ratios[k], var_ratios[k], sums, dmean + first, dvar + first);
    }
  }
  const std::vector<T> rounded(dratios.begin(), dratios.end());
  softmax_gradient(mean_ratios, rounded.data(), dlogits, p.size);
  softmax_gradient(var_ratios, rounded.data() + p.size, dlogits + p.size, p.size);
  spread_batch(p, sums, dmean, dvar);
}

// EN.

// The input of the ratio net: z, (N, K, C/r), and the correlations of its rows, (N, K, K). With r = 0 there is no
// convolution and z is hat itself.
template <typename T>
void exemplar_features(const Pooled<T>& p, T eps, const T* conv, int64_t r, T* z, T* features) {
  const int64_t channels = p.channels, size = p.size, width = r == 0 ? channels : channels / r;
  const std::vector<T> batch = batch_inverse_stds(p, eps);
  std::vector<T> buffer(2 * channels);
  T *d = buffer.data(), *inv = d + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    T* rows = z + n * size * width;
    for (int64_t k = 0; k < size; ++k) {
      T* row = rows + k * width;
      deviations(p, k, n, d);
      inverse_stds(p, k, n, eps, batch, inv);
      if (r == 0) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          row[c] = d[c] * inv[c];
        }
        continue;
      }
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        d[c] *= inv[c] * conv[c];
      }
      for (int64_t j = 0; j < width; ++j) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = j * r; c < (j + 1) * r; ++c) {
          sum += d[c];
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

// weight is (K, C), or (C,) with weight_stride 0; bias, (C,), is the sum of the betas.
template <typename T>
void exemplar_mix(const Pooled<T>& p, T eps, const T* ratios, const T* weight, int64_t weight_stride, const T* bias,
                  T* scale, T* shift) {
  const int64_t channels = p.channels, size = p.size;
  const std::vector<T> batch = batch_inverse_stds(p, eps);
  std::vector<T> buffer(2 * channels);
  T *d = buffer.data(), *inv = d + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    T *s = scale + n * channels, *t = shift + n * channels;
    std::fill(s, s + channels, T(0));
    if (bias == nullptr) {
      std::fill(t, t + channels, T(0));
    } else {
      std::copy(bias, bias + channels, t);
    }
    for (int64_t k = 0; k < size; ++k) {
      deviations(p, k, n, d);
      inverse_stds(p, k, n, eps, batch, inv);
      const T ratio = ratios[n * size + k];
      const T* w = weight == nullptr ? nullptr : weight + k * weight_stride;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const T gain = (w == nullptr ? ratio : ratio * w[c]) * inv[c];
        s[c] += gain;
        t[c] += gain * d[c];
      }
    }
  }
}

// The gradients of gamma, (K, C), of the sum of the betas, (C,), and of the logits of the ratios, (N, K).
template <typename T>
void exemplar_ratio_gradients(const Pooled<T>& p, T eps, const T* ratios, const T* weight, int64_t weight_stride,
                              const T* dscale, const T* dshift, T* dweight, T* dbias, T* dlogits) {
  const int64_t channels = p.channels, size = p.size;
  const std::vector<T> batch = batch_inverse_stds(p, eps);
  std::vector<T> buffer(2 * channels + size);
  T *d = buffer.data(), *inv = d + channels, *dratios = inv + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    const T *ds = dscale + n * channels, *dt = dshift + n * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      dbias[c] += dt[c];
    }
    for (int64_t k = 0; k < size; ++k) {
      deviations(p, k, n, d);
      inverse_stds(p, k, n, eps, batch, inv);
      const T ratio = ratios[n * size + k];
      const T* w = weight == nullptr ? nullptr : weight + k * weight_stride;
      T* dw = dweight + k * channels;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < channels; ++c) {
        const T dgain = inv[c] * (ds[c] + dt[c] * d[c]);
        dw[c] += dgain * ratio;
        sum += w == nullptr ? dgain : dgain * w[c];
      }
      dratios[k] = sum;
    }
    softmax_gradient(ratios + n * size, dratios, dlogits + n * size, size);
  }
}

// The gradients of mean, var and the convolution, (C,). dfeatures, (N, K, K), is nullptr for a net that sees the pooled
// input itself; dmean holds what such a net sends back, or zeros.
template <typename T>
void exemplar_moment_gradients(const Pooled<T>& p, T eps, const T* ratios, const T* weight, int64_t weight_stride,
                               const T* conv, int64_t r, const T* z, const T* dfeatures, const T* dscale,
                               const T* dshift, T* dmean, T* dvar, T* dconv) {
  const int64_t channels = p.channels, size = p.size, width = r == 0 ? channels : channels / r;
  const std::vector<T> batch = batch_inverse_stds(p, eps);
  std::vector<T> buffer(8 * channels, T(0));
  T *d = buffer.data(), *inv = d + channels, *dhat = inv + channels, *ddeviation = dhat + channels,
    *dvariance = ddeviation + channels, *dz = dvariance + channels, *sums = dz + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    const T *ds = dscale + n * channels, *dt = dshift + n * channels;
    T *dm = dmean + n * channels, *dv = dvar + n * channels;
    std::fill(dv, dv + channels, T(0));
    for (int64_t k = 0; k < size; ++k) {
      deviations(p, k, n, d);
      inverse_stds(p, k, n, eps, batch, inv);
      if (dfeatures == nullptr) {
        std::fill(dhat, dhat + channels, T(0));
      } else {
        std::fill(dz, dz + width, T(0));
        for (int64_t other = 0; other < size; ++other) {
          const T factor = dfeatures[(n * size + k) * size + other] + dfeatures[(n * size + other) * size + k];
          const T* row = z + (n * size + other) * width;
#pragma omp simd
          for (int64_t j = 0; j < width; ++j) {
            dz[j] += factor * row[j];
          }
        }
        if (r == 0) {
          std::copy(dz, dz + channels, dhat);
        } else {
          for (int64_t j = 0; j < width; ++j) {
            std::fill(dhat + j * r, dhat + (j + 1) * r, dz[j]);
          }
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) {
            dconv[c] += d[c] * inv[c] * dhat[c];
            dhat[c] *= conv[c];
          }
        }
        // The input of the net is the mean itself, which is a constant, the center, to everything else.
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          dm[c] += dhat[c] * inv[c];
        }
      }
      const T ratio = ratios[n * size + k];
      const T* w = weight == nullptr ? nullptr : weight + k * weight_stride;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const T gain = w == nullptr ? ratio : ratio * w[c];
        const T total = dhat[c] + dt[c] * gain;
        ddeviation[c] = total * inv[c];
        dvariance[c] = T(-0.5) * (ds[c] * gain + total * d[c]) * inv[c] * inv[c] * inv[c];
      }
      pool_gradients(p, k, d, ddeviation, dvariance, T(1), T(1), sums, dm, dv);
    }
  }
  spread_batch(p, sums, dmean, dvar);
}

// ILM: pool 0 is the base, pool 1 the key groups.

template <typename T>
void instance_meta_mix(const Pooled<T>& p, T eps, const T* omega, const T* beta, const T* weight, const T* bias,
                       T* scale, T* shift) {
  const int64_t channels = p.channels, keys = p.groups[1], size = channels / keys;
  const std::vector<T> batch = batch_inverse_stds(p, eps);
  std::vector<T> buffer(2 * channels);
  T *d = buffer.data(), *inv = d + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    deviations(p, 0, n, d);
    inverse_stds(p, 0, n, eps, batch, inv);
    for (int64_t g = 0; g < keys; ++g) {
      const T o = omega[n * keys + g], b = beta[n * keys + g];
#pragma omp simd
      for (int64_t c = g * size; c < (g + 1) * size; ++c) {
        const T s = (o + (weight == nullptr ? T(1) : weight[c])) * inv[c];
        scale[n * channels + c] = s;
        shift[n * channels + c] = s * d[c] + b + (bias == nullptr ? T(0) : bias[c]);
      }
    }
  }
}

// The gradients of weight, bias, (C,), of omega and beta, (N, G), and what the base sends back.
template <typename T>
void instance_meta_base_gradients(const Pooled<T>& p, T eps, const T* scale, const T* dscale, const T* dshift,
                                  T* dmean, T* dvar, T* dweight, T* dbias, T* domega, T* dbeta) {
  const int64_t channels = p.channels, keys = p.groups[1], size = channels / keys;
  const std::vector<T> batch = batch_inverse_stds(p, eps);
  std::vector<T> buffer(4 * channels);
  T *d = buffer.data(), *inv = d + channels, *ddeviation = inv + channels, *dvariance = ddeviation + channels;
  for (int64_t n = 0; n < p.samples; ++n) {
    const T *ds = dscale + n * channels, *dt = dshift + n * channels, *s = scale + n * channels;
    T *dm = dmean + n * channels, *dv = dvar + n * channels;
    std::fill(dm, dm + channels, T(0));
    std::fill(dv, dv + channels, T(0));
    deviations(p, 0, n, d);
    inverse_stds(p, 0, n, eps, batch, inv);
    for (int64_t g = 0; g < keys; ++g) {
      T o = 0, b = 0;
#pragma omp simd reduction(+ : o, b)
      for (int64_t c = g * size; c < (g + 1) * size; ++c) {
        const T dgain = (ds[c] + dt[c] * d[c]) * inv[c];
        dweight[c] += dgain;
        dbias[c] += dt[c];
        dvariance[c] = T(-0.5) * dgain * s[c] * inv[c];
        ddeviation[c] = dt[c] * s[c];
        o += dgain;
        b += dt[c];
      }
      domega[n * keys + g] = o;
      dbeta[n * keys + g] = b;
    }
    pool_gradients<T>(p, 0, d, ddeviation, dvariance, T(1), T(1), nullptr, dm, dv);
  }
}

// Adds what the key features send back: dkeys is (2, N, G), of their means and variances.
template <typename T>
void instance_meta_key_gradients(const Pooled<T>& p, const T* dkeys, T* dmean, T* dvar) {
  const int64_t channels = p.channels, keys = p.groups[1], size = channels / keys;
  std::vector<T> d(channels);
  for (int64_t n = 0; n < p.samples; ++n) {
    deviations(p, 1, n, d.data());
    for (int64_t g = 0; g < keys; ++g) {
      const T a = dkeys[n * keys + g] / size, b = dkeys[(p.samples + n) * keys + g] / size;
#pragma omp simd
      for (int64_t c = g * size; c < (g + 1) * size; ++c) {
        dmean[n * channels + c] += a + 2 * b * d[c];
        dvar[n * channels + c] += b;
      }
    }
  }
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
