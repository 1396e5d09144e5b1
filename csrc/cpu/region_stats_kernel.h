// What the binding of region_stats hands to its kernels.
#pragma once

#include "map.h"

namespace zigzag {

// One axis of one image, cut into atoms: the longest runs of rows that no cell, whichever its grid and tap, divides.
// A line is one (grid, cell, tap): the rows of the cell shifted by the tap, atoms low .. high - 1.
struct StatsAxis {
  int64_t size = 0;
  int64_t atoms = 0;
  const int32_t* bounds = nullptr;     // atoms + 1 rows
  const int32_t* low = nullptr;        // one per line
  const int32_t* high = nullptr;       // one per line
  const int32_t* core_low = nullptr;   // one per (grid, cell): the atoms that all its taps share
  const int32_t* core_high = nullptr;  // one per (grid, cell); core_low when they share none
  const int32_t* cell = nullptr;       // [grid * taps + tap][atom]: the cell that holds the atom, or -1
};

struct StatsArgs {
  Map x;
  Map grad_x;                       // backward only
  Map others;                       // backward only: added to grad_x, or null
  const StatsAxis* rows = nullptr;  // one per image
  const StatsAxis* cols = nullptr;  // one per image
  const int64_t* grids = nullptr;
  int64_t grid_count = 0;
  int64_t taps = 1;       // per axis
  int64_t lines = 0;      // per axis: taps * sum of grids
  int64_t entries = 0;    // S: taps^2 * sum of grids^2
  void* sums = nullptr;   // (N, S, C), or its gradient, in the accumulation type
  void* power = nullptr;  // (N, C), or its gradient
  const Block* blocks = nullptr;
  int64_t block_count = 0;
  int64_t max_atoms = 0;  // over all axes
  bool f64 = false;
};

// Rows that forward sums in one go: bounds the length of a float32 sum and the rows held in scratch.
constexpr int64_t kStatsStrip = 8;

// Tasks are (image, block): begin .. end - 1. `scratch` has scratch_bytes(args) bytes, aligned to 64.
struct StatsKernels {
  int64_t (*scratch_bytes)(const StatsArgs&);
  void (*forward)(const StatsArgs&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const StatsArgs&, int64_t begin, int64_t end, void* scratch);
};

}  // namespace zigzag
