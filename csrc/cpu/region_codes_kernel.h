// Matrix products with few rows, as region_codes has them when few images share large weights: each weight is read, or
// each gradient written, once, at the speed of memory.
#pragma once

#include <cstdint>

namespace zigzag {

// Row-major and dense: few (M, ...), weight (O, K).
struct SkinnyArgs {
  const void* left = nullptr;  // dot, outer: see below
  const void* right = nullptr;
  void* out = nullptr;
  int64_t m = 0, o = 0, k = 0;
  bool f64 = false;
};

constexpr int64_t kMaxSkinny = 8;
constexpr int64_t kSkinnyColumns = 512;  // columns of K that one task of `mix` or `outer` takes

struct SkinnyKernels {
  // out (M, O) = left (M, K) . right (O, K)^T, for rows begin .. end - 1 of the weight.
  void (*dot)(const SkinnyArgs&, int64_t begin, int64_t end);
  // out (M, K) = left (M, O) . right (O, K), for runs begin .. end - 1 of kSkinnyColumns columns.
  void (*mix)(const SkinnyArgs&, int64_t begin, int64_t end);
  // out (O, K) = left (M, O)^T . right (M, K), for rows begin .. end - 1 of the weight.
  void (*outer)(const SkinnyArgs&, int64_t begin, int64_t end);
};

}  // namespace zigzag
