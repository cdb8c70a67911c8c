// Memory for the numbers of planes, taken past the dispatcher, which takes longer than the loops over a few of them.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>

#include <cstring>
#include <utility>
#include <vector>

namespace mmnorm {

inline at::Tensor new_numbers(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::Tensor(at::detail::empty_cpu(sizes, dtype));
}

inline at::Tensor new_zeros(at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor t = new_numbers(sizes, dtype);
  std::memset(t.data_ptr(), 0, t.nbytes());
  return t;
}

// Of the shape and type, but contiguous.
inline at::Tensor new_like(const at::Tensor& t) { return new_numbers(t.sizes(), t.scalar_type()); }

// Of a shape, without memory of its own.
inline at::Tensor new_stand_in(const at::Tensor& number, at::IntArrayRef sizes) {
  c10::Storage storage = number.storage();
  at::Tensor t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), number.key_set(), number.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, std::vector<int64_t>(sizes.size(), 0));
  return t;
}

}  // namespace mmnorm
