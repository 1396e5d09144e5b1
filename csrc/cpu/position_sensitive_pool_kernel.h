// What the binding of position_sensitive_pool hands to its kernels.
#pragma once

#include "map.h"

namespace zigzag {

// Rows or columns of a bin, first .. end - 1.
struct BinSpan {
  int32_t first, end;
};

struct PoolArgs {
  Map x;                           // or its gradient
  Map pooled;                      // (R, D, P, P), or its gradient
  const int32_t* image = nullptr;  // one per RoI
  const BinSpan* rows = nullptr;   // [RoI][bin]
  const BinSpan* cols = nullptr;
  int64_t groups = 1;                  // per axis
  const int64_t* first_bin = nullptr;  // groups + 1: the bins of a cell along an axis
  const Block* blocks = nullptr;       // of the D channels of a cell
  int64_t block_count = 0;
  bool f64 = false;
};

// Tasks are (image, block, cell): begin .. end - 1. `scratch` has scratch_bytes(args) bytes, aligned to 64.
struct PoolKernels {
  int64_t (*scratch_bytes)(const PoolArgs&);
  void (*forward)(const PoolArgs&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const PoolArgs&, int64_t begin, int64_t end, void* scratch);
};

}  // namespace zigzag
