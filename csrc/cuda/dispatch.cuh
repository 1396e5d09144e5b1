// From the types and strides of tensors to the templates of kernels.
#pragma once

#include "device.cuh"
#include "kernels.h"

namespace zigzag {
namespace cuda {

template <class T>
MapOf<T> view(const Map& m) {
  return {static_cast<T*>(m.data), m.sn, m.sc, m.sh, m.sw};
}

// Can V neighbouring channels of every pixel be accessed at once?
inline bool packs(const Map& m, int vector, int64_t size) {
  if (!m.data) return true;
  return m.sc == 1 && m.c % vector == 0 && m.sw % vector == 0 && m.sh % vector == 0 && m.sn % vector == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % (size * vector) == 0;
}

// Can 16 bytes of a table be accessed at once? It may be a view of a larger tensor, at any element of it.
inline bool aligned(const void* table) { return reinterpret_cast<uintptr_t>(table) % 16 == 0; }

inline Grids grids_of(const std::vector<int64_t>& sizes) {
  Grids grids;
  for (const int64_t size : sizes) grids.push(size);
  return grids;
}

// work(T{}) with the element type of a map.
template <class Work>
void with_type(Dtype dtype, const Work& work) {
  switch (dtype) {
    case Dtype::f64:
      return work(double{});
    case Dtype::f32:
      return work(float{});
    case Dtype::bf16:
      return work(__nv_bfloat16{});
    case Dtype::f16:
      return work(__half{});
  }
}

}  // namespace cuda
}  // namespace zigzag
