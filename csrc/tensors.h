// From stable-ABI tensors to plain views, on every device.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <exception>
#include <optional>
#include <vector>

#include "map.h"

namespace zigzag {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      STD_TORCH_CHECK(false, "zigzag: expected float64, float32, bfloat16 or float16");
  }
}

inline ScalarType accumulation_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Map map_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() == 4, "zigzag: expected a (N, C, H, W) map, got ", t.dim(), " dimensions");
  Map m;
  m.data = t.mutable_data_ptr();
  m.dtype = dtype_of(t);
  m.n = t.size(0), m.c = t.size(1), m.h = t.size(2), m.w = t.size(3);
  m.sn = t.stride(0), m.sc = t.stride(1), m.sh = t.stride(2), m.sw = t.stride(3);
  return m;
}

// A new tensor in `like`'s strides where it is channels_last, contiguous otherwise.
inline Tensor map_like(const Tensor& like) {
  try {
    return torch::stable::empty_like(like);
  } catch (const std::exception& error) {  // torch 2.11 and 2.12 hand on no word of memory
    STD_TORCH_CHECK(false, "zigzag: there is no memory for a map (", like.size(0), ", ", like.size(1), ", ",
                    like.size(2), ", ", like.size(3), "): ", error.what());
  }
}

inline Tensor table_like(const Tensor& like, std::vector<int64_t> sizes) {
  return torch::stable::new_empty(like, sizes, accumulation_type(like));
}

}  // namespace zigzag
