// What the kernels of dense_pathway's backward share: their arguments, and sums over a block.
#pragma once

#include "atoms.cuh"
#include "pathway.cuh"

namespace zigzag {
namespace cuda {

constexpr int kPathwayThreads = 128;

// The most target rows and columns of a block of pathway_walk.
constexpr int kWalkRows = 40, kWalkColumns = 32;

// An axis of an image cut into equal parts, none of them empty, of at most `most` pixels.
struct Parts {
  int count, length;

  ZIGZAG_HOST_DEVICE int first(int part) const { return part * length; }
  ZIGZAG_HOST_DEVICE int end(int part, int size) const { return size - first(part) < length ? size : first(part + 1); }
};

ZIGZAG_HOST_DEVICE inline Parts parts_of(int64_t size, int most) {
  const int64_t count = (size + most - 1) / most;
  return {static_cast<int>(count), static_cast<int>((size + count - 1) / count)};
}

// What each source needs besides what forward has.
template <class T>
struct SourceGradient {
  typedef Wide<T> A;
  MapOf<T> grad;
  A *grad_codes, *grad_scale, *grad_shift;
  A* columns;   // E: (N, plane, C), pixels of one plane as the first launch has them
  A* lines;     // (N, row atoms, lines, C)
  A* products;  // (N, row atoms, C): sums of gathered values times the source
  Cuts cuts;
  int width, height;
  int pitch;      // of a row that pathway_walk wrote
  int64_t plane;  // pixels
  int most_rows, row_candidates, column_candidates;
  int64_t first_block;  // of pathway_sources
};

template <class T>
struct Backward {
  typedef Wide<T> A;
  PathwayShape shape;
  MapOf<const T> base, grad, grad_sum;
  MapOf<T> grad_base;
  const A *base_scale, *base_shift, *gain;
  A *grad_base_scale, *grad_base_shift, *grad_gain;
  A* bands;  // (N, most_sums, 3, C): of the base's scale and shift, and of the gain
  int band, most_bands, most_sums;
  int64_t walk_chunks;    // of pathway_walk's blocks; 0 where it is not launched
  unsigned char* memory;  // of all blocks, where shared memory is too small; or null
  int64_t memory_bytes;   // of one block
  int64_t items;
  Source<T> sources[kMostSources];
};

template <class T>
struct SourceGradients {
  SourceGradient<T> at[kMostSources];
};

// Whether pathway_walk does an image, whatever its batch-mates: no source is finer than the target.
template <class T>
__device__ bool walks(const Backward<T>& b, int64_t image) {
  bool coarser = b.walk_chunks > 0;
  for (int j = 0; coarser && j < b.shape.source_count; ++j) {
    const Sizes& sizes = b.sources[j].sizes;
    coarser = sizes.rows(image) <= b.shape.sizes.rows(image) && sizes.columns(image) <= b.shape.sizes.columns(image);
  }
  return coarser;
}

// The target columns, low to high, that read each of some source columns. Both ends of a tap only go forward, so each
// is written once.
template <class A>
__device__ void invert_columns(const Taps<A>& taps, int first, int width, Span source, int thread, int threads,
                               int* low, int* high) {
  const int begin = static_cast<int>(source.first), end = static_cast<int>(source.end);
  for (int r = thread; r < end - begin; r += threads) low[r] = width, high[r] = -1;
  __syncthreads();
  for (int w = thread; w < width; w += threads) {
    const Tap<A> tap = taps.tap[first + w];
    const int tap_end = tap.start + tap.count;
    const int end_before = w > 0 ? taps.tap[first + w - 1].start + taps.tap[first + w - 1].count : begin;
    const int start_after = w + 1 < width ? taps.tap[first + w + 1].start : end;
    for (int r = end_before; r < tap_end; ++r) low[r - begin] = w;
    for (int r = tap.start; r < start_after; ++r) high[r - begin] = w;
  }
}

// The weight with which a tap reads source row r.
template <class A>
__device__ A weight_of_row(const Tap<A>& tap, int r) {
  return tap.count == 1 ? A(1) : tap.weight(r - tap.start);
}

// What backward reads of one target pixel; zeros stand for a map that is not there.
template <class T, int V>
struct Arriving {
  Pack<T, V> base, grad, grad_sum;
};

// The gradient that arrives at one target pixel, and what of it reaches the base, which is written; scale and shift are
// those of the thread's channels, or null.
template <class T, int V>
__device__ Vec<Wide<T>, V> differentiate_base(const Backward<T>& b, const Arriving<T, V>& arriving,
                                              const Wide<T>* scale, const Wide<T>* shift, T* to,
                                              Vec<Wide<T>, V>& grad_scale, Vec<Wide<T>, V>& grad_shift) {
  typedef Wide<T> A;
  Vec<A, V> grad = widen<T, V>(arriving.grad);
  add(grad, widen<T, V>(arriving.grad_sum));
  Vec<A, V> through = grad;
  if (b.base.data) {
    const Vec<A, V> x = widen<T, V>(arriving.base);
    if (b.shape.relu) {
      Vec<A, V> y = x;
      apply_affine(y, scale, shift, 0);
#pragma unroll
      for (int i = 0; i < V; ++i) through.at[i] = y.at[i] <= 0 ? 0 : grad.at[i];
    }
    add(grad_scale, through, x);
    add(grad_shift, through);
    if (scale) multiply(through, load<V>(scale));
  }
  write(to, through);
  return grad;
}

// The sum over a block's workers, in order, of one vector each; worker 0 gets it.
template <class A, int V>
__device__ Vec<A, V> sum_workers(const Vec<A, V>& value, A* memory) {
  const int lanes = blockDim.x * V;
  __syncthreads();
  store(memory + threadIdx.y * lanes + threadIdx.x * V, value);
  __syncthreads();
  if (threadIdx.y != 0) return value;
  return sum_atoms<V>(memory + threadIdx.x * V, blockDim.y, lanes);
}

}  // namespace cuda
}  // namespace zigzag
