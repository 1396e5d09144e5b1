// Takes the place of LibTorch's stable headers, so that the CUDA bindings take numpy arrays: what they use of a tensor,
// on a pybind11 array. The thread sanitizer runs the emulated kernels so; a process with torch in it, it does not.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

typedef int AOTITorchError;

#define STD_TORCH_CHECK(condition, ...) \
  if (!(condition)) throw std::invalid_argument(numpy_tensors::joined(__VA_ARGS__))
#define TORCH_BOX(function) function
#define STABLE_TORCH_LIBRARY_IMPL(name, key, m)                                                           \
  static void define_##name(numpy_tensors::Library);                                                      \
  static const bool name##_is_defined = (numpy_tensors::parts().push_back({#name, define_##name}), true); \
  static void define_##name([[maybe_unused]] numpy_tensors::Library m)

namespace numpy_tensors {

template <class... Parts>
std::string joined(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// The module that operations become functions of.
struct Library {
  py::module_ module;

  template <class Function>
  void impl(const char* name, Function function) {
    module.def(name, function);
  }
};

// What defines a file's operations in the module of one library.
struct Part {
  const char* library;
  void (*define)(Library);
};

inline std::vector<Part>& parts() {
  static std::vector<Part> all;
  return all;
}

}  // namespace numpy_tensors

namespace torch::headeronly {

enum class ScalarType { Double, Float, BFloat16, Half, Other };

}  // namespace torch::headeronly

namespace torch::stable {

using headeronly::ScalarType;

// Strides are in elements here, as torch has them.
class Tensor : public py::array {
 public:
  using py::array::array;

  int64_t dim() const { return ndim(); }
  int64_t size(int64_t i) const { return shape(i); }
  int64_t stride(int64_t i) const { return strides(i) / itemsize(); }
  bool is_contiguous() const { return flags() & py::array::c_style; }
  const void* const_data_ptr() const { return data(); }
  void* mutable_data_ptr() const { return const_cast<void*>(data()); }
  ScalarType scalar_type() const {
    const char kind = dtype().char_();
    return kind == 'd'   ? ScalarType::Double
           : kind == 'f' ? ScalarType::Float
           : kind == 'e' ? ScalarType::Half
                         : ScalarType::Other;
  }
};

inline Tensor new_empty(const Tensor&, const std::vector<int64_t>& sizes, ScalarType type) {
  return Tensor(py::dtype(type == ScalarType::Double ? "d" : type == ScalarType::Float ? "f" : "e"), sizes);
}

inline Tensor new_empty(const Tensor& like, const std::vector<int64_t>& sizes) {
  return new_empty(like, sizes, like.scalar_type());
}

// Dense, with the dimensions in memory in the order of `like`'s.
inline Tensor empty_like(const Tensor& like) {
  std::vector<int64_t> order(like.dim()), sizes(like.dim()), strides(like.dim());
  std::iota(order.rbegin(), order.rend(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return like.stride(a) < like.stride(b); });
  int64_t step = like.itemsize();
  for (const int64_t i : order) {
    sizes[i] = like.size(i), strides[i] = step;
    step *= sizes[i];
  }
  return Tensor(like.dtype(), sizes, strides);
}

}  // namespace torch::stable
