// What the bindings hand to the CUDA kernels: plain views of tensors on one device. Nothing of CUDA's or torch's is
// needed to read this file. Each function only launches, on `stream`, and throws std::runtime_error where that fails.
#pragma once

#include <cstdint>
#include <vector>

#include "../map.h"

namespace zigzag {
namespace cuda {

typedef void* Stream;  // a cudaStream_t

struct RegionStats {
  Map x;
  Map grad_x;            // backward only
  const int64_t* valid;  // (N, 2), or null
  std::vector<int64_t> grids;
  int64_t halo;
  void* sums;   // (N, S, C), or its gradient, in the accumulation type
  void* power;  // (N, C), or its gradient
};

int64_t region_stats_scratch(const RegionStats& args);  // values of the accumulation type
void region_stats(const RegionStats& args, void* scratch, Stream stream);
void region_stats_backward(const RegionStats& args, Stream stream);

}  // namespace cuda
}  // namespace zigzag
