// Compiling a file of loops once for each set of vector instructions, and choosing one when the library is loaded.
//
//   #define MMNORM_KERNELS "kernels.h"
//   #include "instructions.h"
//
// makes cpu_default::f, and on x86 cpu_avx2::f and cpu_avx512::f, of each function f in kernels.h, whose namespace is
// MMNORM_CPU. MMNORM_CALL(f, ...) calls the one for this processor. Included once for each file of loops.

// MMNORM_BYTES is the length of a register. Vectors are passed between inlined functions only.
#pragma GCC diagnostic ignored "-Wpsabi"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MMNORM_X86
#include <immintrin.h>
#endif

#define MMNORM_CPU cpu_default
#define MMNORM_BYTES 16
#include MMNORM_KERNELS
#undef MMNORM_BYTES
#undef MMNORM_CPU

#ifdef MMNORM_X86
#pragma GCC push_options
#pragma GCC target("avx2,fma,prfchw")
#define MMNORM_CPU cpu_avx2
#define MMNORM_BYTES 32
#include MMNORM_KERNELS
#undef MMNORM_BYTES
#undef MMNORM_CPU
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,prfchw,prefer-vector-width=512")
#define MMNORM_CPU cpu_avx512
#define MMNORM_BYTES 64
#include MMNORM_KERNELS
#undef MMNORM_BYTES
#undef MMNORM_CPU
#pragma GCC pop_options
#endif
#undef MMNORM_KERNELS

#ifndef MMNORM_CALL
namespace mmnorm {
namespace {

enum class Instructions { Default, Avx2, Avx512 };

Instructions detect() {
#ifdef MMNORM_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return Instructions::Avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return Instructions::Avx2;
  }
#endif
  return Instructions::Default;
}

const Instructions kInstructions = detect();

}  // namespace
}  // namespace mmnorm

#ifdef MMNORM_X86
#define MMNORM_CALL(function, ...)                       \
  (kInstructions == Instructions::Avx512                 \
       ? cpu_avx512::function(__VA_ARGS__)               \
       : kInstructions == Instructions::Avx2 ? cpu_avx2::function(__VA_ARGS__) : cpu_default::function(__VA_ARGS__))
#else
#define MMNORM_CALL(function, ...) cpu_default::function(__VA_ARGS__)
#endif  // MMNORM_X86
#endif  // MMNORM_CALL
