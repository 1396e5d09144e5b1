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

constexpr int64_t kMostSources = 16;

struct PathwaySource {
  Map map;
  Map grad;              // backward only
  const int64_t* valid;  // (N, 2), or null
  // Tables in the accumulation type; null where not given. Codes (N, S, C); scale and shift (N, C).
  const void *codes, *scale, *shift;
  void *grad_codes, *grad_scale, *grad_shift;  // backward only
};

struct DensePathway {
  Map target;            // sizes, type and strides of base
  const int64_t* valid;  // (N, 2), or null
  std::vector<int64_t> grids;
  bool relu, product, nearest;
  std::vector<PathwaySource> sources;
  Map base, residual, output, output_sum;               // base: not there in backward where nothing depends on it
  Map grad, grad_sum, grad_base;                        // backward only; one of the first two may be missing
  const void *base_scale, *base_shift;                  // (N, C)
  const void* gain;                                     // (C,)
  void *grad_base_scale, *grad_base_shift, *grad_gain;  // (N, C)
};

void dense_pathway(const DensePathway& args, Stream stream);
int64_t dense_pathway_backward_scratch(const DensePathway& args);  // values of the accumulation type
void dense_pathway_backward(const DensePathway& args, void* scratch, Stream stream);

}  // namespace cuda
}  // namespace zigzag
