// What the kernels share that take sums over row atoms x column atoms: region_stats, and dense_pathway that gathers
// them.
#pragma once

#include "atoms.cuh"
#include "dispatch.cuh"

namespace zigzag {
namespace cuda {

constexpr size_t kThird = size_t{75} << 10;  // of the shared memory of a multiprocessor, so that it runs three blocks

struct StatsShape {
  Cuts cuts, column_cuts;
  Sizes sizes;
  int64_t images, channels, entries;  // entries: S
  int64_t chunks;
  int most_rows, most_columns;        // atoms
  int row_integers, column_integers;  // candidates of the axes
  int width, height;
};

// Which image, atom or line of rows, and first channel a block works on.
struct Place {
  int64_t image, row, channel;
};

template <int V>
__device__ Place place_of(const StatsShape& s, int64_t rows) {
  const int64_t chunk = blockIdx.x % s.chunks, rest = blockIdx.x / s.chunks;
  return {rest / rows, rest % rows, (chunk * blockDim.x + threadIdx.x) * V};
}

// Where a block keeps sum and power of its column atoms, and the tables of both axes.
template <class A>
struct StatsMemory {
  A* pieces;  // [column atom][sum, power][lane]
  int length;
  Axis rows, columns;

  template <int V>
  __device__ void keep(int column_atom, const Vec<A, V>& sum, const Vec<A, V>& power) const {
    A* const piece = pieces + 2 * column_atom * length + threadIdx.x * V;
    store(piece, sum);
    store(piece + length, power);
  }

  // Adds to what is kept; the first time, to nothing.
  template <int V>
  __device__ void add_up(int column_atom, const Vec<A, V>& sum, const Vec<A, V>& power, bool first) const {
    A* const piece = pieces + 2 * column_atom * length + threadIdx.x * V;
    Vec<A, V> all = splat<A, V>(0), all_power = splat<A, V>(0);
    if (!first) all = load<V>(piece), all_power = load<V>(piece + length);
    add(all, sum);
    add(all_power, power);
    keep(column_atom, all, all_power);
  }
};

template <class A>
__device__ StatsMemory<A> place_stats(const StatsShape& s, int length, unsigned char* memory) {
  A* const pieces = reinterpret_cast<A*>(memory);
  int* const tables = reinterpret_cast<int*>(pieces + 2 * s.most_columns * length);
  return {pieces, length, place_axis(s.cuts, s.row_integers, tables),
          place_axis(s.cuts, s.column_integers, tables + axis_integers(s.cuts, s.row_integers))};
}

// From the pieces to the sums of every column line in this row atom, and its power.
template <int V, class A>
__device__ void write_lines(const StatsShape& s, const Place& at, const StatsMemory<A>& memory, A* lines, A* powers) {
  const int64_t row = at.image * s.most_rows + at.row;
  const A* const piece = memory.pieces + threadIdx.x * V;
  sum_lines<V>(s.cuts, memory.columns, piece, 2 * memory.length, lines + row * s.cuts.lines() * s.channels + at.channel,
               s.channels);
  if (threadIdx.y != 0) return;
  store(powers + row * s.channels + at.channel,
        sum_atoms<V>(piece + memory.length, memory.columns.count(), 2 * memory.length));
}

inline StatsShape shape_of(const RegionStats& args) {
  StatsShape s;
  s.cuts.grids = grids_of(args.grids);
  s.cuts.halo = static_cast<int>(args.halo);
  s.column_cuts = s.cuts;
  // Workers take column atoms, of which most have one pixel: a long one would keep all others of its block waiting.
  s.column_cuts.strip = 4;
  // With one cell there are no atoms but the strips to share the work out.
  if (s.cuts.grids.lines == 1) s.cuts.strip = 4;
  s.sizes = {args.valid, args.x.h, args.x.w};
  s.images = args.x.n, s.channels = args.x.c;
  s.entries = int64_t{s.cuts.grids.cells} * s.cuts.taps() * s.cuts.taps();
  s.most_rows = most_atoms(s.cuts, args.x.h), s.most_columns = most_atoms(s.column_cuts, args.x.w);
  s.row_integers = most_candidates(s.cuts, args.x.h);
  s.column_integers = most_candidates(s.column_cuts, args.x.w);
  s.width = static_cast<int>(args.x.w), s.height = static_cast<int>(args.x.h);
  return s;
}

// What a block takes: so many values for each of its channels, and both axes' tables.
template <class T>
size_t block_bytes(const StatsShape& s, int64_t values, int channels) {
  const int tables = axis_integers(s.cuts, s.row_integers) + axis_integers(s.cuts, s.column_integers);
  return values * channels * sizeof(Wide<T>) + tables * sizeof(int);
}

// What lies in a scratch of region_stats_scratch values.
template <class A>
struct StatsScratch {
  A *lines, *powers;

  StatsScratch(const StatsShape& s, void* scratch)
      : lines(static_cast<A*>(scratch)), powers(lines + s.images * s.most_rows * s.cuts.lines() * s.channels) {}
};

// From the lines of all row atoms to sums and power.
void region_stats_lines(const RegionStats& args, const StatsShape& s, void* scratch, cudaStream_t stream);

}  // namespace cuda
}  // namespace zigzag
