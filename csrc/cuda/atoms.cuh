// An axis of an image cut into atoms: the longest runs of rows that no cell, whichever its grid and tap, divides, and
// that no strip is longer than. A line is one (grid, cell, tap): the rows of the cell shifted by the tap.
// A block makes these tables in shared memory from nothing but sizes, which may be known on the GPU alone.
#pragma once

#include "device.cuh"

namespace zigzag {
namespace cuda {

struct Cuts {
  Grids grids;
  int halo = 0;
  int strip = 16;  // rows of an atom at most, in images of up to kMostStrips of them

  __host__ __device__ int taps() const { return 2 * halo + 1; }
  __host__ __device__ int lines() const { return grids.lines * taps(); }
};

constexpr int kMostStrips = 64;

ZIGZAG_HOST_DEVICE inline int strip_of(const Cuts& cuts, int64_t size) {
  const int64_t strip = (size + kMostStrips - 1) / kMostStrips;
  return static_cast<int>(strip > cuts.strip ? strip : cuts.strip);
}

ZIGZAG_HOST_DEVICE inline int strips_of(const Cuts& cuts, int64_t size) {
  const int strip = strip_of(cuts, size);
  return static_cast<int>((size + strip - 1) / strip);
}

// Every row at which a cell begins or ends under some tap, every strip's first row, and the end.
ZIGZAG_HOST_DEVICE inline int candidates_of(const Cuts& cuts, int64_t size) {
  return (cuts.grids.lines + cuts.grids.count) * cuts.taps() + strips_of(cuts, size) + 1;
}

// At most so many candidates in an axis of `size` rows, or of fewer: its strips only get longer where it does.
ZIGZAG_HOST_DEVICE inline int most_candidates(const Cuts& cuts, int64_t size) {
  const int64_t strips = (size + cuts.strip - 1) / cuts.strip;
  return (cuts.grids.lines + cuts.grids.count) * cuts.taps() + 1 +
         static_cast<int>(strips < kMostStrips ? strips : kMostStrips);
}

// At most so many atoms.
ZIGZAG_HOST_DEVICE inline int most_atoms(const Cuts& cuts, int64_t size) {
  const int most = most_candidates(cuts, size) - 1;
  return static_cast<int>(size < most ? size : most);
}

// The tables of one axis; they lie in shared memory.
struct Axis {
  int* bounds;  // atoms + 1 rows
  int* low;     // first atom of every line
  int* high;    // one after its last atom
  int* work;    // candidates, and which of them are the first of their value
  int* atoms;   // how many there are

  __device__ int count() const { return *atoms; }
};

// Integers that the tables of one axis take in shared memory, for images of up to `most` candidates.
ZIGZAG_HOST_DEVICE inline int axis_integers(const Cuts& cuts, int most) { return 3 * most + 2 * cuts.lines() + 1; }

__device__ inline Axis place_axis(const Cuts& cuts, int most, int* memory) {
  int* const lines = memory + most;
  return {memory, lines, lines + cuts.lines(), lines + 2 * cuts.lines(), lines + 2 * cuts.lines() + 2 * most};
}

// The row at which border `index` of a grid lies under a tap.
__device__ inline int border(int64_t index, int64_t size, int64_t grid, int tap, int halo) {
  return static_cast<int>(clamp_to(cell_start(index, size, grid) + tap - halo, 0, size));
}

__device__ inline int candidate(const Cuts& cuts, int64_t size, int index) {
  for (int g = 0; g < cuts.grids.count; ++g) {
    const int borders = (cuts.grids.size[g] + 1) * cuts.taps();
    if (index < borders) return border(index / cuts.taps(), size, cuts.grids.size[g], index % cuts.taps(), cuts.halo);
    index -= borders;
  }
  const int64_t row = static_cast<int64_t>(index) * strip_of(cuts, size);
  return static_cast<int>(row < size ? row : size);
}

// The atom that begins at `row`, which is a border.
__device__ inline int atom_at(const Axis& axis, int row) {
  int low = 0, high = axis.count();
  while (low < high) {
    const int middle = (low + high) / 2;
    if (axis.bounds[middle] < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Fills the tables; all threads of the block take part.
__device__ inline void cut_axis(const Cuts& cuts, int64_t size, int thread, int threads, const Axis& axis) {
  const int candidates = candidates_of(cuts, size);
  int* const value = axis.work;
  int* const first = axis.work + candidates;
  for (int i = thread; i < candidates; i += threads) value[i] = candidate(cuts, size, i);
  __syncthreads();
  for (int i = thread; i < candidates; i += threads) {
    int is_first = 1;
    for (int j = 0; j < i; ++j) is_first &= value[j] != value[i];
    first[i] = is_first;
  }
  __syncthreads();
  for (int i = thread; i < candidates; i += threads) {
    if (!first[i]) continue;
    int rank = 0;
    for (int j = 0; j < candidates; ++j) rank += first[j] & (value[j] < value[i]);
    axis.bounds[rank] = value[i];
    if (value[i] == size) *axis.atoms = rank;
  }
  __syncthreads();
  for (int i = thread; i < cuts.lines(); i += threads) {
    const int tap = i % cuts.taps();
    int g = 0;
    while (g + 1 < cuts.grids.count && i / cuts.taps() >= cuts.grids.first_line[g + 1]) ++g;
    const int cell = i / cuts.taps() - cuts.grids.first_line[g], grid = cuts.grids.size[g];
    axis.low[i] = atom_at(axis, border(cell, size, grid, tap, cuts.halo));
    // An empty cell stays empty under every shift.
    const bool empty = cell_start(cell, size, grid) == cell_start(cell + 1, size, grid);
    axis.high[i] = empty ? axis.low[i] : atom_at(axis, border(cell + 1, size, grid, tap, cuts.halo));
  }
  __syncthreads();
}

// The sums of every column line from those of the column atoms, for one chunk of channels: `pieces` lie `step` values
// apart, lines `channels`.
template <int V, class A>
__device__ void sum_lines(const Cuts& cuts, const Axis& columns, const A* pieces, int step, A* lines,
                          int64_t channels) {
  for (int line = threadIdx.y; line < cuts.lines(); line += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0);
    for (int i = columns.low[line]; i < columns.high[line]; ++i) add(sum, load<V>(pieces + i * step));
    store(lines + line * channels, sum);
  }
}

// The same of all atoms.
template <int V, class A>
__device__ Vec<A, V> sum_atoms(const A* values, int64_t count, int64_t step) {
  Vec<A, V> sum = splat<A, V>(0);
  for (int64_t i = 0; i < count; ++i) add(sum, load<V>(values + i * step));
  return sum;
}

}  // namespace cuda
}  // namespace zigzag
