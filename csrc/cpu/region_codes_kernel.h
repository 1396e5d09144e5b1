// Matrix products as region_codes has them: few rows, the regions of some images, against large weights. Each weight is
// read, and each gradient written, once and in memory order. What one element of a result is summed from, and in which
// order, depends on nothing but the length of the sum: neither on threads nor on the other rows.
#pragma once

#include <cstdint>

namespace zigzag {

// Row-major and dense, in the accumulation type; a weight is (O, K).
struct ProductArgs {
  const void* left = nullptr;
  const void* right = nullptr;
  void* out = nullptr;
  int64_t m = 0, o = 0, k = 0;
  int64_t tasks = 0;
  bool f64 = false;
  // What is read next: times_transposed fetches some of it while it multiplies many rows, when memory has little to do.
  const void* next = nullptr;
  int64_t next_bytes = 0;
};

// What one task takes: so many rows of the weight, or columns.
constexpr int64_t kProductRows = 4;
constexpr int64_t kProductColumns = 64;

struct ProductKernels {
  // out (M, O) = left (M, K) . weight (O, K)^T; tasks are runs of rows.
  void (*times_transposed)(const ProductArgs&, int64_t begin, int64_t end);
  // out (M, K) = left (M, O) . weight (O, K); tasks are runs of columns.
  void (*times)(const ProductArgs&, int64_t begin, int64_t end);
  // out (O, K) = left (M, O)^T . right (M, K); tasks are runs of out's rows.
  void (*transposed_times)(const ProductArgs&, int64_t begin, int64_t end);
};

}  // namespace zigzag
