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
  Map grad_x, others;    // backward only; others: added to grad_x, or null
  const int64_t* valid;  // (N, 2), or null
  std::vector<int64_t> grids;
  int64_t halo;
  void* sums;   // (N, S, C), or its gradient, in the accumulation type
  void* power;  // (N, C), or its gradient
};

int64_t region_stats_entries(const RegionStats& args);  // S
int64_t region_stats_scratch(const RegionStats& args);  // values of the accumulation type
void region_stats(const RegionStats& args, void* scratch, Stream stream);
// The same by bulk copies where they take the map, from sm_90 on.
void region_stats_hopper(const RegionStats& args, void* scratch, Stream stream);
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
// Both in one pass over the map where that can be; stats.x is args.output.
void dense_pathway_stats(const DensePathway& args, const RegionStats& stats, void* scratch, Stream stream);
int64_t dense_pathway_backward_scratch(const DensePathway& args);  // values of the accumulation type
void dense_pathway_backward(const DensePathway& args, void* scratch, Stream stream);

// A table (N, S, C), or (N, C), of float or double, with dense channels.
struct Table {
  void* data = nullptr;
  bool wide = false;
  int64_t image = 0, row = 0;  // strides in elements
};

struct RegionNorm {
  Table sums, codes, power;  // codes: not there where R is F itself
  Table weight, bias;        // (1, C)
  Table scale, shift;        // (N, C), or their gradients
  double* moments;           // (N, 2, groups): mean and variance
  const int64_t* valid;      // (N, 2), or null
  std::vector<int64_t> grids;
  int64_t images, channels, groups, height, width;
  double eps;
  // Backward only.
  Table grad_sums, grad_codes, grad_power, grad_weight, grad_bias;
  double* by_image;  // scratch (N, 2, C)
};

void region_norm(const RegionNorm& args, Stream stream);
void region_norm_backward(const RegionNorm& args, Stream stream);

// One grid's weights (or their gradients), in conv, aggregate, distribute order. A weight (C, C, k, k) is contiguous,
// or dense with its channels last.
struct Branch {
  void* weight[3];
  bool taps_last[3];
  void* bias[3];
};

struct RegionCodes {
  Dtype dtype;       // of the branches and codes; what has no type below is in the accumulation type
  const void* sums;  // (N, S, C)
  std::vector<Branch> branches;
  std::vector<int64_t> taps;  // of each region convolution, all axes
  const int64_t* valid;       // (N, 2), or null
  std::vector<int64_t> grids;
  int64_t images, channels, height, width;
  bool mean;
  void* codes;    // (N, sum K*K, C)
  void* regions;  // (N, sum K*K, C)
  void* hidden;   // (N, grids, C)
  // Backward only.
  const void* grad;  // of the codes
  void* grad_sums;
  std::vector<Branch> grads;
};

int64_t region_codes_scratch(const RegionCodes& args, bool backward);  // values of the accumulation type
void region_codes(const RegionCodes& args, void* scratch, Stream stream);
void region_codes_backward(const RegionCodes& args, void* scratch, Stream stream);

}  // namespace cuda
}  // namespace zigzag
