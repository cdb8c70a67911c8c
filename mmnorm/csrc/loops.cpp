// The passes over the data (core.h) as functions of C: the library mmnorm/_loops.so, which knows neither PyTorch nor
// Python, so that one serves all versions. mmnorm/ops/passes/portable.py calls it, and makes sure of every pointer.
#ifndef _WIN32
#include <pthread.h>
#endif

#include <algorithm>
#include <cstdint>
#include <new>

#include "core.h"

namespace mmnorm {
namespace {

// OpenMP's functions, of the library whose threads PyTorch uses: a second one would have threads of its own. Without them
// there is one thread.
using Parallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
using Count = int (*)();
Parallel omp_parallel = nullptr;
Count omp_thread = nullptr;
Count omp_threads = nullptr;

// Threads that the caller lets the pass have.
thread_local int allowed_threads = 1;

// A process that was forked has none of its parent's threads, and OpenMP would wait for them.
bool is_forked = false;

struct Work {
  int64_t size;
  const core::Part& part;
};

// The part of one of the threads.
void work(void* data) {
  const Work& all = *static_cast<const Work*>(data);
  const int64_t thread = omp_thread(), threads = omp_threads(), each = (all.size + threads - 1) / threads;
  const int64_t begin = thread * each, end = std::min(all.size, begin + each);
  if (begin < end) {
    all.part(begin, end);
  }
}

// 0, or 1 where memory is short.
template <typename F>
int run(int threads, const F& f) {
  allowed_threads = threads;
  try {
    f();
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

}  // namespace

void core::parallel_for(int64_t size, int64_t grain, const Part& part) {
  const int64_t threads = std::min<int64_t>(allowed_threads, (size + grain - 1) / grain);
  if (threads <= 1 || !omp_parallel || is_forked) {
    part(0, size);
    return;
  }
  Work all{size, part};
  omp_parallel(&work, &all, static_cast<unsigned>(threads), 0);
}

}  // namespace mmnorm

#define MMNORM_C extern "C" __attribute__((visibility("default")))
#define MMNORM_SHAPE int64_t samples, int64_t channels, int64_t length, int contiguous, int type

using mmnorm::core::Numbers;
using mmnorm::core::Shape;
using mmnorm::core::Type;

namespace {

Numbers numbers(const void* data, int type) { return {data, static_cast<Type>(type)}; }

}  // namespace

// Of the functions below, as they are called from Python; to be raised with every change.
MMNORM_C int mmnorm_interface() { return 1; }

MMNORM_C const char* mmnorm_instructions() { return mmnorm::core::instructions(); }

// GOMP_parallel, omp_get_thread_num and omp_get_num_threads, once.
MMNORM_C void mmnorm_use_threads(void* parallel, void* thread, void* threads) {
  mmnorm::omp_thread = reinterpret_cast<mmnorm::Count>(thread);
  mmnorm::omp_threads = reinterpret_cast<mmnorm::Count>(threads);
  mmnorm::omp_parallel = reinterpret_cast<mmnorm::Parallel>(parallel);
#ifndef _WIN32
  pthread_atfork(nullptr, nullptr, [] { mmnorm::is_forked = true; });
#endif
}

MMNORM_C int mmnorm_moments(int threads, MMNORM_SHAPE, const void* x, double* mean, void* var) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::moments(Shape(samples, channels, length, contiguous), static_cast<Type>(type), x, mean, var);
  });
}

MMNORM_C int mmnorm_affine(int threads, MMNORM_SHAPE, const void* x, const double* mean, const void* scale,
                           int scale_type, const void* shift, int shift_type, double negative_slope, void* y) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::affine(Shape(samples, channels, length, contiguous), static_cast<Type>(type), x, mean,
                         numbers(scale, scale_type), numbers(shift, shift_type), negative_slope, y);
  });
}

MMNORM_C int mmnorm_affine_add(int threads, MMNORM_SHAPE, const void* x, const double* mean, const void* scale,
                               int scale_type, const void* shift, int shift_type, const void* other,
                               double negative_slope, void* y, uint8_t* bits) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::affine_add(Shape(samples, channels, length, contiguous), static_cast<Type>(type), x, mean,
                             numbers(scale, scale_type), numbers(shift, shift_type), other, negative_slope, y, bits);
  });
}

// Rows of the bits that affine_add writes and the next two read, and the bytes of each.
MMNORM_C void mmnorm_bits(MMNORM_SHAPE, int64_t* rows, int64_t* bytes) {
  const Shape shape(samples, channels, length, contiguous);
  *rows = shape.rows();
  *bytes = mmnorm::core::bit_bytes(shape, static_cast<Type>(type));
}

MMNORM_C int mmnorm_plane_sums(int threads, MMNORM_SHAPE, const void* dy, const void* x, const double* mean,
                               const void* scale, int scale_type, const void* shift, int shift_type,
                               double negative_slope, void* total, void* product) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::plane_sums(Shape(samples, channels, length, contiguous), static_cast<Type>(type), dy, x, mean,
                             numbers(scale, scale_type), numbers(shift, shift_type), negative_slope, total, product);
  });
}

MMNORM_C int mmnorm_plane_sums_add(int threads, MMNORM_SHAPE, const void* dy, const void* x, const double* mean,
                                   const uint8_t* bits, double negative_slope, void* total, void* product, void* dz) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::plane_sums_add(Shape(samples, channels, length, contiguous), static_cast<Type>(type), dy, x, mean,
                                 bits, negative_slope, total, product, dz);
  });
}

MMNORM_C int mmnorm_slopes_of(int threads, MMNORM_SHAPE, const uint8_t* bits, double negative_slope, void* slopes) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::slopes_of(Shape(samples, channels, length, contiguous), static_cast<Type>(type), bits,
                            negative_slope, slopes);
  });
}

MMNORM_C int mmnorm_input_gradient(int threads, MMNORM_SHAPE, const void* dy, const void* x, const double* mean,
                                   const void* scale, int scale_type, const void* shift, int shift_type,
                                   const void* slope, int slope_type, const void* offset, int offset_type,
                                   double negative_slope, void* dx) {
  return mmnorm::run(threads, [&] {
    mmnorm::core::input_gradient(Shape(samples, channels, length, contiguous), static_cast<Type>(type), dy, x, mean,
                                 numbers(scale, scale_type), numbers(shift, shift_type), numbers(slope, slope_type),
                                 numbers(offset, offset_type), 1, 1, negative_slope, dx);
  });
}
