// Plain views that cross from the PyTorch bindings into the kernels.
#pragma once

#include <cstdint>

namespace zigzag {

enum class Dtype : int { f64 = 0, f32 = 1, bf16 = 2, f16 = 3 };

// A (N, C, H, W) map; strides are in elements. `data` is null for a map that is not there.
struct Map {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  int64_t n = 0, c = 0, h = 0, w = 0;
  int64_t sn = 0, sc = 0, sh = 0, sw = 0;
};

}  // namespace zigzag
