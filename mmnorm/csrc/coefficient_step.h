// What the steps of the coefficients share.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "coefficients.h"
#include "step.h"
#define MMNORM_KERNELS "shared_kernels.h"
#include "instructions.h"

namespace mmnorm {

#define MMNORM_DISPATCH(dtype, name, ...)               \
  AT_DISPATCH_FLOATING_TYPES(dtype, name, [&] {         \
    using T = scalar_t;                                 \
    __VA_ARGS__;                                        \
  })

// A tensor as the loops read it: contiguous, in the type that is computed in; undefined if it is.
inline at::Tensor as(const at::Tensor& t, at::ScalarType dtype) {
  // Most are as they should be, and even an operator that does nothing takes a microsecond.
  const bool as_is = !t.defined() || (t.scalar_type() == dtype && t.is_contiguous() && !t.is_neg());
  return as_is ? t : t.to(dtype).contiguous().resolve_neg();
}

template <typename T>
const T* pointer(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

inline Planes planes_of(const at::Tensor& deviation) {
  return {deviation.size(0), deviation.size(1), deviation.size(2)};
}

inline at::Tensor planes_like(const at::Tensor& deviation) {
  return new_numbers(deviation.sizes().slice(1), deviation.scalar_type());
}

// A Python function of a step that is made from these options, for so many inputs; with one output it returns no list.
template <typename S, typename... Options, size_t... I>
void define_step(pybind11::module_& module, const char* name, std::index_sequence<I...>) {
  const auto input = [](size_t) -> OptionalTensor { return {}; };
  module.def(name, [](std::decay_t<decltype(input(I))>... inputs, Options... options, pybind11::function again) {
    const auto step = c10::make_intrusive<S>(std::move(options)..., std::move(again));
    const variable_list outputs = run(step, {or_undefined(inputs)...});
    return outputs.size() == 1 ? pybind11::cast(outputs[0]) : pybind11::cast(outputs);
  });
}

// Moments that a step starts from: their type is computed in.
inline void check_moments(const at::Tensor& t, const char* name, int64_t dims) {
  MMNORM_EXPECT(is_dense_cpu(t) && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble) &&
                    t.dim() == dims && t.numel() > 0,
                name, t, "a tensor of float or double on the CPU, with ", dims, " dimensions, that is not empty");
}

// A parameter that may be left out.
inline void check_optional(const at::Tensor& t, const char* name, at::IntArrayRef sizes) {
  if (t.defined()) {
    check_floating(t, name, sizes);
  }
}

// gamma or beta, (C,) or (K, C).
inline void check_rows(const at::Tensor& t, const char* name, const Planes& p) {
  if (t.defined() && t.dim() == 2) {
    check_floating(t, name, {p.normalizers, p.channels});
  } else {
    check_optional(t, name, {p.channels});
  }
}

inline void check_groups(int64_t groups, int64_t channels) {
  TORCH_CHECK(groups > 0 && channels % groups == 0, "mmnorm: groups: expected a divisor of ", channels,
              " channels, got ", groups);
}

}  // namespace mmnorm
