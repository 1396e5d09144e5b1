// The matrix products of region_codes: kernels of our own, or the vendor's library where it is faster.
#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "dispatch.h"
#include "region_codes_kernel.h"
#include "tensors.h"

namespace zigzag {

ZIGZAG_DECLARE_KERNELS(ProductKernels, region_codes_kernels)

inline int64_t runs_of(int64_t size, int64_t run) { return (size + run - 1) / run; }

// out = left . right, 2-D; the out variant, because autocast leaves it alone.
inline void multiply(const Tensor& left, const Tensor& right, const Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(left), torch::stable::detail::from(right),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes over the returned reference
}

constexpr int64_t kProductParts = 4;

// The same in parts of out's rows (dim 0) or columns (dim 1), each by one thread: the library's own split would follow
// the number of threads, and the last bits of the result with it.
inline void multiply_in_parts(const Tensor& left, const Tensor& right, const Tensor& out, int64_t dim) {
  const int64_t size = out.size(dim);
  const int64_t part = std::max<int64_t>(runs_of(size, kProductParts), 16);
  torch::stable::parallel_for(0, kProductParts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * part, count = std::min(part, size - first);
      if (count <= 0) continue;
      Tensor own_left = left, own_right = right, own_out = out;
      own_out = torch::stable::narrow(own_out, dim, first, count);
      if (dim == 0) own_left = torch::stable::narrow(own_left, 0, first, count);
      if (dim == 1) own_right = torch::stable::narrow(own_right, 1, first, count);
      multiply(own_left, own_right, own_out);
    }
  });
}

// Above so many rows the library is faster (benchmarks/NOTES.md); it multiplies narrow types in any case.
constexpr int64_t kMostRows = 1024;

inline bool use_own(int64_t m, const Tensor& weight) {
  const Dtype dtype = dtype_of(weight);
  return m <= kMostRows && (dtype == Dtype::f32 || dtype == Dtype::f64);
}

// A dense 4-D weight as the (rows, the rest) matrix it is in memory, contiguous or channels_last.
inline Tensor matrix_of(const Tensor& weight) {
  const int64_t rows = weight.size(0), cols = weight.numel() / std::max<int64_t>(rows, 1);
  return torch::stable::from_blob(weight.mutable_data_ptr(), {rows, cols}, {cols, 1}, weight.device(),
                                  weight.scalar_type());
}

using Kernel = void (*)(const ProductArgs&, int64_t, int64_t);

inline void run_own(Kernel kernel, const Tensor& left, const Tensor& right, const Tensor& out, int64_t m, int64_t o,
                    int64_t k, int64_t tasks, const Tensor* next = nullptr) {
  ProductArgs args;
  args.left = left.const_data_ptr(), args.right = right.const_data_ptr(), args.out = out.mutable_data_ptr();
  args.m = m, args.o = o, args.k = k;
  args.tasks = tasks;
  args.f64 = dtype_of(out) == Dtype::f64;
  if (next) {
    args.next = next->const_data_ptr();
    args.next_bytes = next->numel() * next->element_size();
  }
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

// (M, K) . (O, K)^T; `next` is the weight that is read after this one.
inline Tensor times_transposed(const Tensor& left, const Tensor& weight, const Tensor* next = nullptr) {
  const int64_t m = left.size(0), o = weight.size(0), k = weight.size(1);
  Tensor out = torch::stable::new_empty(left, {m, o});
  if (use_own(m, weight)) {
    run_own(ZIGZAG_KERNELS(region_codes_kernels).times_transposed, left, weight, out, m, o, k, runs_of(o, kProductRows),
            next);
  } else {
    multiply_in_parts(left, torch::stable::transpose(weight, 0, 1), out, 1);
  }
  return out;
}

// (M, O) . (O, K)
inline Tensor times(const Tensor& left, const Tensor& weight) {
  const int64_t m = left.size(0), o = weight.size(0), k = weight.size(1);
  Tensor out = torch::stable::new_empty(left, {m, k});
  if (use_own(m, weight)) {
    run_own(ZIGZAG_KERNELS(region_codes_kernels).times, left, weight, out, m, o, k, runs_of(k, kProductColumns));
  } else {
    multiply_in_parts(left, weight, out, 1);
  }
  return out;
}

// A gradient with the weight's strides: (M, O)^T . (M, K)
inline Tensor weight_gradient(const Tensor& left, const Tensor& right, const Tensor& weight) {
  Tensor grad = torch::stable::empty_like(weight);
  const Tensor matrix = matrix_of(grad);
  const int64_t m = left.size(0), o = left.size(1), k = right.size(1);
  if (use_own(m, weight)) {
    run_own(ZIGZAG_KERNELS(region_codes_kernels).transposed_times, left, right, matrix, m, o, k,
            runs_of(o, kProductRows));
  } else {
    multiply_in_parts(torch::stable::transpose(left, 0, 1), right, matrix, 0);
  }
  return grad;
}

}  // namespace zigzag
