// What the loops take for granted, made sure of where Python comes in: a few comparisons a tensor, and no loop reads
// past an end or takes memory for what it is not. Errors say what was expected and what was given.
#pragma once

#include <ATen/core/Tensor.h>

#include <sstream>
#include <string>

namespace mmnorm {

inline std::string describe(const at::Tensor& t) {
  if (!t.defined()) {
    return "none";
  }
  std::ostringstream out;
  out << t.scalar_type() << " on " << t.device() << ", " << t.layout();
  if (t.is_nested()) {
    out << ", nested";
  } else if (t.layout() == at::kStrided) {
    out << ", of shape " << t.sizes() << " and strides " << t.strides();
  } else {
    out << ", of shape " << t.sizes();
  }
  if (t.is_neg()) {
    out << ", a negative view (call resolve_neg() first)";
  }
  if (t.has_storage() && !t.unsafeGetTensorImpl()->storage_initialized()) {
    out << ", without memory";
  }
  return out.str();
}

#define MMNORM_EXPECT(condition, name, t, ...) \
  TORCH_CHECK(condition, "mmnorm: ", name, ": expected ", __VA_ARGS__, ", got ", describe(t))

// Whether `t` is a dense tensor on the CPU with memory of its own, which may yet be a view with its sign to be changed.
inline bool is_dense_cpu(const at::Tensor& t) {
  return t.defined() && t.device().is_cpu() && t.layout() == at::kStrided && !t.is_nested() &&
         t.unsafeGetTensorImpl()->storage_initialized();
}

inline bool is_channels_last(const at::Tensor& x) {
  return x.is_contiguous(at::MemoryFormat::ChannelsLast) || x.is_contiguous(at::MemoryFormat::ChannelsLast3d);
}

// x, (N, C, *), as the passes read it.
inline const at::Tensor& checked_input(const at::Tensor& x) {
  const bool floating = x.defined() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble ||
                                        x.scalar_type() == at::kBFloat16);
  MMNORM_EXPECT(floating && is_dense_cpu(x) && !x.is_neg() && x.dim() >= 2 && x.numel() > 0 &&
                    (x.is_contiguous() || is_channels_last(x)),
                "x", x,
                "a tensor (N, C, *) of float, double or bfloat16 on the CPU, contiguous or channels_last, that is not "
                "empty");
  return x;
}

// A tensor of numbers that lie one after another, of this type and shape.
inline void check_numbers(const at::Tensor& t, const char* name, at::ScalarType dtype, at::IntArrayRef sizes) {
  MMNORM_EXPECT(is_dense_cpu(t) && !t.is_neg() && t.scalar_type() == dtype && t.sizes() == sizes && t.is_contiguous(),
                name, t, "a contiguous tensor of ", dtype, " on the CPU, of shape ", sizes);
}

// A tensor that is converted before it is read: of this shape, of any floating type.
inline void check_floating(const at::Tensor& t, const char* name, at::IntArrayRef sizes) {
  MMNORM_EXPECT(is_dense_cpu(t) && at::isFloatingType(t.scalar_type()) && t.sizes() == sizes, name, t,
                "a dense floating-point tensor on the CPU, of shape ", sizes);
}

}  // namespace mmnorm
