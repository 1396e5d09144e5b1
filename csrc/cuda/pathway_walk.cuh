// The first launch of dense_pathway's backward for images that have one to three sources, none of them finer than the
// target: see dense_pathway_backward.cu.
//
// A block walks down a part of the target's rows, as wide as a part of its columns, a thread at each column. Of every
// source it holds the two rows that a target row reads, mixed at the thread's column, and what either is given, summed
// over the target rows that read it. When the walk leaves a source row, the block brings its sums to the source's
// columns and writes them. Neighbouring parts share source pixels: each writes what it has for them to a place of its
// own, two rows (columns) further on than the part before, as no more than two are shared.
#pragma once

#include "pathway_walk_block.cuh"

namespace zigzag {
namespace cuda {

// --- target maps, read a row ahead -----------------------------------------------------------------------------------

// A thread's place in the target's maps, and what it has asked for there: as bits, or the compiler takes it apart on
// arrival, and so waits for it.
template <class T>
struct Target {
  const T *base, *grad, *grad_sum;
  T* grad_base;
  uint4 bits[3];

  __device__ Target(const Backward<T>& b, const WalkPlace& at) : bits{} {
    const int64_t h = at.first_row, w = at.first_column + threadIdx.y;
    const auto place = [&](auto map) { return map.data ? map.pixel(at.image, h, w, at.channel) : nullptr; };
    base = place(b.base), grad = place(b.grad), grad_sum = place(b.grad_sum), grad_base = place(b.grad_base);
    if (at.active) ask(b);
  }
  __device__ void ask(const Backward<T>& b) {
    if (b.base.data) bits[0] = fetch_bits(base);
    if (b.grad.data) bits[1] = fetch_bits(grad);
    if (b.grad_sum.data) bits[2] = fetch_bits(grad_sum);
  }
  template <int V>
  __device__ Arriving<T, V> arrived() const {
    typedef Pack<T, V> P;
    return {__builtin_bit_cast(P, bits[0]), __builtin_bit_cast(P, bits[1]), __builtin_bit_cast(P, bits[2])};
  }
  __device__ void advance(const Backward<T>& b, bool further) {
    if (base) base += b.base.sh;
    if (grad) grad += b.grad.sh;
    if (grad_sum) grad_sum += b.grad_sum.sh;
    grad_base += b.grad_base.sh;
    if (further) ask(b);
  }
};

// --- source rows -----------------------------------------------------------------------------------------------------

// The codes of a source row, the first or the second that a tap reads, mixed at a target column.
template <class A, int V>
__device__ void add_codes(Vec<A, V>& value, const A* codes, int channels, const Grids& grids, const Taps<A>& taps,
                          int row, bool second, int column) {
  const A first = taps.tap[column].first;
#pragma unroll 1
  for (int g = 0; g < grids.count; ++g) {
    const int y = second ? taps.last_cell(row, g) : taps.first_cell(row, g);
    const int left = taps.first_cell(column, g), right = taps.last_cell(column, g);
    const int line = grids.first_cell[g] + y * grids.size[g];  // an image's codes are fewer than 2^31, see Plan
    add(value, left == right ? A(1) : first, load<V>(codes + (line + left) * channels));
    if (left != right) add(value, 1 - first, load<V>(codes + (line + right) * channels));
  }
}

// Source row r, which row i reads, as the target's columns see it.
template <class T, int V, int K>
__device__ void hold_row(const Backward<T>& b, WalkMemory<Wide<T>, V, K>& m, const WalkPlace& at, int j, int i, int r) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const Source<T>& source = b.sources[j];
  const int row = at.row_tap(j, i), column = at.column_tap(j, threadIdx.y);
  const bool second = r > m.taps[row].start;
  if (source.codes && !(second && m.taps[row].atom >= 0)) {  // or they are those of the row before
    Vec<A, V> code = splat<A, V>(0);
    add_codes(code, source.codes + (m.sources[j].codes + at.channel), static_cast<int>(s.channels), s.grids,
              m.all_taps(s.grids), row, second, column);
    m.codes[j].put(at.thread, code);
  }
  const Tap<A> tap = m.taps[column];
  const int64_t pixel = m.sources[j].map + r * source.map.sh + tap.start * source.map.sw + at.channel;
  const T* const left = source.map.data + pixel;
  const Pack<T, V> corner[2] = {fetch<T, V>(left), fetch<T, V>(left + (tap.second() - tap.start) * source.map.sw)};
  Vec<A, V> value;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    value.at[i] = tap.first * widen(corner[0].at[i]) + (1 - tap.first) * widen(corner[1].at[i]);
  }
  if (source.codes) add(value, m.codes[j].get(at.thread));
  Vec<A, V> affine = load<V>(m.source_shift[j] + threadIdx.x * V);
  add(affine, load<V>(m.source_scale[j] + threadIdx.x * V), value);
  m.held[j][r & 1].put(at.thread, affine);
}

// Brings the sums of source row r, in the slots, to the source's columns, and writes them as this block's part.
template <class T, int V, int K>
__device__ void write_sums(const Backward<T>& b, const SourceGradient<T>& own, WalkMemory<Wide<T>, V, K>& m,
                           const WalkPlace& at, int j, int r) {
  typedef Wide<T> A;
  typedef VectorRow<A, V> Row;
  const WalkSource& place = m.sources[j];
  for (int i = threadIdx.y; i < place.count; i += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0);
#pragma unroll 1
    for (int w = m.low[j][i]; w <= m.high[j][i]; ++w) {
      const A weight = weight_of_row(m.taps[at.column_tap(j, w)], place.begin + i);
#pragma unroll
      for (int k = 0; k < Row::count; ++k) {
        const auto piece = m.slots[j].piece(k, w * blockDim.x + threadIdx.x);
#pragma unroll
        for (int c = 0; c < Row::size; ++c) {
          A& to = sum.at[k * Row::size + c];
          to = fused(weight, piece.at[c], to);
        }
      }
    }
    store(own.columns + (place.sums + (int64_t{r} * own.pitch + i) * b.shape.channels + at.channel), sum);
  }
}

// --- target rows -----------------------------------------------------------------------------------------------------

// What a thread has at its column: of every source the sums of the two rows that the walk is at.
template <class A, int V, int K>
struct Walk {
  Vec<A, V> upper[K], lower[K];
  Vec<A, V> tables[3];  // of the base's scale and shift, and of the gain
};

// Holds the source rows that row i is the first to read.
template <class T, int V, int K>
__device__ void hold_rows(const Backward<T>& b, WalkMemory<Wide<T>, V, K>& m, const WalkPlace& at, int i,
                          unsigned steps) {
#pragma unroll 1
  for (int j = 0; j < K; ++j) {
    if (!(steps >> (kHolds + j) & 1)) continue;
    const Tap<Wide<T>>* const tap = m.taps + at.row_tap(j, i);
    const int next = i > 0 ? tap[-1].start + tap[-1].count : tap->start;
    for (int r = next; r < tap->start + tap->count; ++r) hold_row<T, V, K>(b, m, at, j, i, r);
  }
}

// Writes the sums of the source rows that are left before row i.
template <class T, int V, int K>
__device__ void leave_rows(const Backward<T>& b, const SourceGradients<T>& gradients, WalkMemory<Wide<T>, V, K>& m,
                           const WalkPlace& at, int i, unsigned steps, Walk<Wide<T>, V, K>& walk) {
  __syncthreads();  // or somebody may still read the slots
#pragma unroll
  for (int j = 0; j < K; ++j) {
    if (!(steps >> j & 1)) continue;
    m.slots[j].put(at.thread, walk.upper[j]);
    walk.upper[j] = walk.lower[j];
    walk.lower[j] = splat<Wide<T>, V>(0);
  }
  __syncthreads();
  const bool lower = steps & kEnd;  // of the last target row
#pragma unroll 1
  for (int j = 0; j < K; ++j) {
    if (at.channel >= b.shape.channels || !(steps >> j & 1)) continue;
    write_sums<T, V, K>(b, gradients.at[j], m, at, j, m.taps[at.row_tap(j, i - 1 - lower)].start + lower);
  }
}

// How all sources' join changes with each, times the gradient that the join gets; returns the join.
template <class A, int P, int K>
__device__ Vec<A, P> differentiate_join(bool product, const Vec<A, P>& through, const Vec<A, P> (&value)[K],
                                        Vec<A, P> (&change)[K]) {
  Vec<A, P> all = value[K - 1];
#pragma unroll
  for (int j = 0; j < K; ++j) change[j] = through;
  if (product) {
#pragma unroll
    for (int j = 1; j < K; ++j) {
      change[j] = change[j - 1];
      multiply(change[j], value[j - 1]);
    }
#pragma unroll
    for (int j = K - 2; j >= 0; --j) {
      multiply(change[j], all);
      multiply(all, value[j]);
    }
  } else {
#pragma unroll
    for (int j = K - 2; j >= 0; --j) add(all, value[j]);
  }
  return all;
}

// What the source rows that row i reads are given of the gradient at one pixel.
template <class T, int V, int K>
__device__ void spread_pixel(const Backward<T>& b, const WalkMemory<Wide<T>, V, K>& m, const WalkPlace& at, int row,
                             const Vec<Wide<T>, V>& grad, Walk<Wide<T>, V, K>& walk) {
  typedef Wide<T> A;
  typedef VectorRow<A, V> Row;
  Tap<A> tap[K];
#pragma unroll
  for (int j = 0; j < K; ++j) tap[j] = m.taps[at.row_tap(j, row)];
#pragma unroll
  for (int k = 0; k < Row::count; ++k) {
    typename Row::Piece value[K], change[K], through = load<Row::size>(m.gain + threadIdx.x * V + k * Row::size);
#pragma unroll
    for (int j = 0; j < K; ++j) {  // a single row is read as two halves of itself
      const auto above = m.held[j][tap[j].start & 1].piece(k, at.thread);
      const auto below = m.held[j][tap[j].second() & 1].piece(k, at.thread);
#pragma unroll
      for (int i = 0; i < Row::size; ++i) {
        value[j].at[i] = fused(1 - tap[j].first, below.at[i], tap[j].first * above.at[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < Row::size; ++i) through.at[i] *= grad.at[k * Row::size + i];
    const auto all = differentiate_join(b.shape.product, through, value, change);
#pragma unroll
    for (int i = 0; i < Row::size; ++i) {
      A& sum = walk.tables[2].at[k * Row::size + i];
      sum = fused(grad.at[k * Row::size + i], all.at[i], sum);
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const A first = tap[j].count == 1 ? A(1) : tap[j].first;
#pragma unroll
      for (int i = 0; i < Row::size; ++i) {
        A& upper = walk.upper[j].at[k * Row::size + i];
        upper = fused(first, change[j].at[i], upper);
      }
      if (tap[j].count == 1) continue;
#pragma unroll
      for (int i = 0; i < Row::size; ++i) {
        A& lower = walk.lower[j].at[k * Row::size + i];
        lower = fused(1 - first, change[j].at[i], lower);
      }
    }
  }
}

// --- blocks ----------------------------------------------------------------------------------------------------------

// Zeros outside the image, in a part of the whole map.
template <class T, int V>
__device__ void zero_part(const Backward<T>& b, const WalkPlace& at, int height, int width) {
  const PathwayShape& s = b.shape;
  if (!at.inside || (height == s.height && width == s.width)) return;
  const Parts rows = parts_of(s.height, kWalkRows), columns = parts_of(s.width, kWalkColumns);
  for (int h = rows.first(at.row_part); h < rows.end(at.row_part, s.height); ++h) {
    for (int w = columns.first(at.column_part) + threadIdx.y; w < columns.end(at.column_part, s.width);
         w += blockDim.y) {
      if (h >= height || w >= width) write(b.grad_base.pixel(at.image, h, w, at.channel), splat<Wide<T>, V>(0));
    }
  }
}

// A block: a part of the rows and columns of one image, a chunk of the channels.
template <class T, int V, int K>
__global__ void __launch_bounds__(kWalkThreads, kWalkBlocks)
    pathway_walk(const __grid_constant__ Backward<T> b, const __grid_constant__ SourceGradients<T> gradients) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  WalkPlace at = walk_place(b, V);
  if (!walks(b, at.image)) return;
  const int height = static_cast<int>(s.sizes.rows(at.image)), width = static_cast<int>(s.sizes.columns(at.image));
  zero_part<T, V>(b, at, height, width);
  const Parts rows = parts_of(height, kWalkRows), columns = parts_of(width, kWalkColumns);
  if (at.row_part >= rows.count || at.column_part >= columns.count) return;
  at.first_row = rows.first(at.row_part), at.first_column = columns.first(at.column_part);
  at.rows = rows.end(at.row_part, height) - at.first_row;
  at.columns = columns.end(at.column_part, width) - at.first_column;
  at.active = at.inside && static_cast<int>(threadIdx.y) < at.columns;
  WalkMemory<A, V, K>& m = *shared_memory<WalkMemory<A, V, K>>();
  if (at.thread == 0) m.part = at.image * b.most_sums + at.row_part * columns.count + at.column_part;
  prepare_walk<T, V, K>(b, gradients, m, at, height, width);

  Walk<A, V, K> walk = {};
  Target<T> target(b, at);
#pragma unroll 1
  for (int i = 0;; ++i) {
    const unsigned steps = m.steps[i];
    if (at.active && steps & kAnyHeld) hold_rows<T, V, K>(b, m, at, i, steps);
    if (steps & kLeaves) leave_rows<T, V, K>(b, gradients, m, at, i, steps, walk);
    if (steps & kEnd) break;
    if (!at.active || !(steps & kRow)) continue;
    const Vec<A, V> grad =
        differentiate_base<T, V>(b, target.template arrived<V>(), m.scale + threadIdx.x * V, m.shift + threadIdx.x * V,
                                 target.grad_base, walk.tables[0], walk.tables[1]);
    // On their way while this row is worked on, and while the block waits for its threads.
    target.advance(b, steps & kNextRow);
    spread_pixel<T, V, K>(b, m, at, i, grad, walk);
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const Vec<A, V> sum = sum_workers(walk.tables[i], m.slots[0].values[0][0]);
    if (at.inside && threadIdx.y == 0) store(b.bands + (m.part * 3 + i) * s.channels + at.channel, sum);
  }
}

}  // namespace cuda
}  // namespace zigzag
