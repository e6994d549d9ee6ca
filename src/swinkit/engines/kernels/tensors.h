// What the operations need of torch: tensors, vectors, threads. Its stable interface, for that of ATen has headers which take a
// compiler half a minute to read.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace {

using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;
using Vec = at::vec::Vectorized<float>;
constexpr int64_t WIDTH = Vec::size();
constexpr auto FLOAT = torch::headeronly::ScalarType::Float;
constexpr auto LONG = torch::headeronly::ScalarType::Long;
constexpr auto CHAR = torch::headeronly::ScalarType::Char;

#if defined(__GNUC__)
#define ASK(place) __builtin_prefetch(place, 0, 2)
#else
#define ASK(place) static_cast<void>(place)
#endif

inline Tensor whole(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }
inline Maybe whole(const Maybe& t) { return t ? Maybe(whole(*t)) : t; }

inline bool has_shape(const Tensor& t, const std::vector<int64_t>& shape) {
  return t.sizes() == torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size());
}

// A tensor with nothing in it yet; without the way through torch's table of operators, for layers ask for one in every call.
inline Tensor empty(const std::vector<int64_t>& shape, int32_t type = aoti_torch_dtype_float32()) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), type,
                                                         aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

}  // namespace
