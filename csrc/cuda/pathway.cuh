// What dense_pathway's kernels share: the taps that resize a source, and R^j = source + codes, resized, at one pixel.
#pragma once

#include "dispatch.cuh"

namespace zigzag {
namespace cuda {

template <class T>
struct Source {
  typedef Wide<T> A;
  MapOf<const T> map;
  Sizes sizes;
  const A *codes, *scale, *shift;
};

struct PathwayShape {
  Grids grids;
  Sizes sizes;
  int64_t images, channels, chunks;
  int height, width;
  int source_count;
  bool relu, product;
  Resize resize;
};

// How one target row (or column) reads rows of a source: `count` of them from `start`. Two rows have the weights
// `first` and 1 - first, more of them `first` each; a single one stands as two halves of itself.
template <class A>
struct Tap {
  int start, count;
  A first;
  int atom;  // the same for neighbours that lie in the same cells, which are single; -1 where they are not

  __device__ int second() const { return count == 1 ? start : start + 1; }
  __device__ A weight(int k) const { return count == 2 && k == 1 ? 1 - first : first; }
};

// Taps in shared memory, and with each the cells of its first and its last row in every grid.
template <class A>
struct Taps {
  Tap<A>* tap;
  int* cells;
  int grid_count;

  __device__ int first_cell(int tap, int g) const { return cells[(2 * tap) * grid_count + g]; }
  __device__ int last_cell(int tap, int g) const { return cells[(2 * tap + 1) * grid_count + g]; }
};

template <class A>
ZIGZAG_HOST_DEVICE inline int64_t taps_bytes(int64_t count, int grids) {
  return (count * (sizeof(Tap<A>) + 2 * grids * sizeof(int)) + 15) / 16 * 16;
}

template <class A>
__device__ Taps<A> place_taps(unsigned char* memory, int64_t count, int grids) {
  return {reinterpret_cast<Tap<A>*>(memory), reinterpret_cast<int*>(memory + count * sizeof(Tap<A>)), grids};
}

template <class A>
__device__ void make_tap(const Taps<A>& taps, int index, int64_t target_row, int64_t source, int64_t target,
                         const Grids& grids, Resize resize) {
  const ResizeTap found = resize_tap(target_row, source, target, resize);
  Tap<A> tap;
  tap.start = static_cast<int>(found.start);
  tap.count = static_cast<int>(found.count);
  tap.first = tap.count == 1 ? A(0.5) : static_cast<A>(found.first);
  tap.atom = 0;
  for (int g = 0; g < grids.count; ++g) {
    const int first = static_cast<int>(cell_of(found.start, source, grids.size[g]));
    const int last = static_cast<int>(cell_of(found.start + found.count - 1, source, grids.size[g]));
    taps.cells[2 * index * grids.count + g] = first;
    taps.cells[(2 * index + 1) * grids.count + g] = last;
    // Cells do not go back along an axis: equal sums are equal cells.
    tap.atom = first == last && tap.atom >= 0 ? tap.atom + first : -1;
  }
  taps.tap[index] = tap;
}

// The share of a tap's weight that lies in one of its cells, of which some may be empty.
template <class A>
__device__ A weight_in_cell(const Taps<A>& taps, int index, int g, int cell, int64_t size, int grid) {
  const int first = taps.first_cell(index, g), last = taps.last_cell(index, g);
  const Tap<A> tap = taps.tap[index];
  if (first == last) return 1;
  if (tap.count == 2) return cell == first ? tap.first : cell == last ? 1 - tap.first : 0;
  const int64_t low = cell_start(cell, size, grid), high = cell_start(cell + 1, size, grid);
  const int64_t from = low > tap.start ? low : tap.start;
  const int64_t to = high < tap.start + tap.count ? high : tap.start + tap.count;
  return to > from ? tap.first * static_cast<A>(to - from) : 0;
}

// The codes of one image at a target pixel, resized as the source is.
template <class A, int V>
__device__ Vec<A, V> mix_codes(const A* codes, int64_t channels, const Grids& grids, const Taps<A>& taps, int row,
                               int column, int64_t height, int64_t width) {
  Vec<A, V> sum = splat<A, V>(0);
  const bool single = taps.tap[row].atom >= 0 && taps.tap[column].atom >= 0;
  for (int g = 0; g < grids.count; ++g) {
    const int grid = grids.size[g];
    const A* const table = codes + grids.first_cell[g] * channels;
    if (single) {
      add(sum, load<V>(table + (taps.first_cell(row, g) * grid + taps.first_cell(column, g)) * channels));
      continue;
    }
    for (int y = taps.first_cell(row, g); y <= taps.last_cell(row, g); ++y) {
      const A by_row = weight_in_cell(taps, row, g, y, height, grid);
      for (int x = taps.first_cell(column, g); x <= taps.last_cell(column, g); ++x) {
        const A weight = by_row * weight_in_cell(taps, column, g, x, width, grid);
        add(sum, weight, load<V>(table + (y * grid + x) * channels));
      }
    }
  }
  return sum;
}

// A source at a target pixel, resized.
template <class T, int V>
__device__ Vec<Wide<T>, V> mix_pixels(const MapOf<const T>& map, int64_t image, int64_t channel,
                                      const Tap<Wide<T>>& row, const Tap<Wide<T>>& column) {
  typedef Wide<T> A;
  if (row.count <= 2 && column.count <= 2) {
    const T* const upper = map.pixel(image, row.start, column.start, channel);
    const int64_t down = (row.second() - row.start) * map.sh, right = (column.second() - column.start) * map.sw;
    const Pack<T, V> corner[4] = {fetch<T, V>(upper), fetch<T, V>(upper + right), fetch<T, V>(upper + down),
                                  fetch<T, V>(upper + down + right)};
    Vec<A, V> value;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const A top = column.first * widen(corner[0].at[i]) + (1 - column.first) * widen(corner[1].at[i]);
      const A bottom = column.first * widen(corner[2].at[i]) + (1 - column.first) * widen(corner[3].at[i]);
      value.at[i] = row.first * top + (1 - row.first) * bottom;
    }
    return value;
  }
  Vec<A, V> value = splat<A, V>(0);
  for (int k = 0; k < row.count; ++k) {
    Vec<A, V> sum = splat<A, V>(0);
    const T* pixel = map.pixel(image, row.start + k, column.start, channel);
#pragma unroll 4
    for (int i = 0; i < column.count; ++i, pixel += map.sw) add(sum, column.weight(i), load<V>(pixel));
    add(value, row.weight(k), sum);
  }
  if (row.count == 1) add(value, value);  // a single row's weight is 1/2, twice
  if (column.count == 1) add(value, value);
  return value;
}

template <class A, int V>
__device__ void apply_affine(Vec<A, V>& value, const A* scale, const A* shift, int64_t at) {
  if (!scale) return;
  const Vec<A, V> factor = load<V>(scale + at), offset = load<V>(shift + at);
#pragma unroll
  for (int i = 0; i < V; ++i) value.at[i] = fused(factor.at[i], value.at[i], offset.at[i]);
}

inline PathwayShape pathway_shape(const DensePathway& args) {
  PathwayShape s = {};
  s.grids = grids_of(args.grids);
  s.sizes = {args.valid, args.target.h, args.target.w};
  s.images = args.target.n, s.channels = args.target.c;
  s.height = static_cast<int>(args.target.h), s.width = static_cast<int>(args.target.w);
  s.source_count = static_cast<int>(args.sources.size());
  s.relu = args.relu, s.product = args.product;
  s.resize = args.nearest ? Resize::nearest : Resize::linear;
  return s;
}

// Of every table that is read 16 bytes at a time.
inline bool tables_aligned(const DensePathway& args) {
  bool all = aligned(args.base_scale) && aligned(args.base_shift) && aligned(args.gain);
  for (const PathwaySource& source : args.sources) {
    all = all && aligned(source.codes) && aligned(source.scale) && aligned(source.shift);
  }
  return all;
}

template <class T>
Source<T> source_of(const PathwaySource& source) {
  typedef Wide<T> A;
  return {view<const T>(source.map), Sizes{source.valid, source.map.h, source.map.w},
          static_cast<const A*>(source.codes), static_cast<const A*>(source.scale),
          static_cast<const A*>(source.shift)};
}

}  // namespace cuda
}  // namespace zigzag
