// What the binding of dense_pathway hands to its kernels.
#pragma once

#include "map.h"

namespace zigzag {

// How one axis of a source becomes one axis of the target: row d reads `count[d]` rows from `start[d]`, with weights
// first[d] each, but 1 - first[d] for the second of two.
struct ResizeAxis {
  int64_t source = 0, target = 0;
  int64_t longest = 1;  // the largest count
  const int32_t* start = nullptr;
  const int32_t* count = nullptr;
  const double* first = nullptr;
};

// One axis of a source cut into atoms, the longest runs of rows that no cell of any grid divides.
struct CellAxis {
  int64_t atoms = 0;
  const int32_t* bounds = nullptr;  // atoms + 1 rows
  const int32_t* atom = nullptr;    // per row
  const int32_t* cell = nullptr;    // [grid][atom]
};

struct PathwaySource {
  Map map;
  Map grad;  // backward only
  // Tables in the accumulation type; null where not given. Codes (N, S, C); scale and shift (N, C).
  const void* codes = nullptr;
  const void* scale = nullptr;
  const void* shift = nullptr;
  void* grad_codes = nullptr;
  void* grad_scale = nullptr;
  void* grad_shift = nullptr;
  // One per image.
  const ResizeAxis* rows = nullptr;
  const ResizeAxis* cols = nullptr;
  const CellAxis* cell_rows = nullptr;
  const CellAxis* cell_cols = nullptr;
  int64_t max_count = 1;  // source rows that one target row reads, at most, over all images
};

constexpr int64_t kMaxSources = 16;

struct PathwayArgs {
  int64_t images = 0, channels = 0, height = 0, width = 0;
  Map base, residual, output, output_sum;  // base: null in backward where nothing depends on it
  Map grad, grad_sum, grad_base;           // backward only; either gradient may be null
  const void* base_scale = nullptr;        // (N, C)
  const void* base_shift = nullptr;        // (N, C)
  const void* gain = nullptr;              // (C,)
  void* grad_base_scale = nullptr;         // (N, C)
  void* grad_base_shift = nullptr;         // (N, C)
  void* grad_gain = nullptr;               // (N, C)
  const PathwaySource* sources = nullptr;
  int64_t source_count = 0;
  const int64_t* heights = nullptr;  // valid rows of each image
  const int64_t* widths = nullptr;   // valid columns of each image
  const int64_t* grids = nullptr;
  int64_t grid_count = 0, cells = 0;  // cells: S = sum of grids^2
  bool relu = false, product = true, f64 = false;
  bool streams = false;  // forward: the outputs, aligned, go past the caches
  const Block* blocks = nullptr;
  int64_t block_count = 0;
  int64_t bands = 1;  // forward: parts that the rows of an image are cut into
  int64_t max_atoms = 0;
};

// Source rows that are weighted and added in one go.
constexpr int64_t kPathwayStrip = 8;

// Tasks are (image, block, band) forward and (image, block) backward. `scratch` has scratch_bytes(args) bytes.
struct PathwayKernels {
  int64_t (*scratch_bytes)(const PathwayArgs&, bool backward);
  void (*forward)(const PathwayArgs&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const PathwayArgs&, int64_t begin, int64_t end, void* scratch);
};

}  // namespace zigzag
