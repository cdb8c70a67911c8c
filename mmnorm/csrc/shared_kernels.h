// What the loops of pools and of mixing share, for one set of vector instructions; coefficient_step.h includes it.

namespace mmnorm {
namespace MMNORM_CPU {

template <typename T>
inline T inverse_sqrt(T v) {
  return T(1) / std::sqrt(v);
}

template <typename T>
void add(T* into, const T* from, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    into[i] += from[i];
  }
}

}  // namespace MMNORM_CPU
}  // namespace mmnorm
