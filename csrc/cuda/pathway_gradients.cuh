// What the kernels of dense_pathway's backward share: their arguments, and sums over a block.
#pragma once

#include "atoms.cuh"
#include "pathway.cuh"

namespace zigzag {
namespace cuda {

constexpr int kPathwayThreads = 128;

// What each source needs besides what forward has.
template <class T>
struct SourceGradient {
  typedef Wide<T> A;
  MapOf<T> grad;
  A *grad_codes, *grad_scale, *grad_shift;
  A* columns;   // E: (N, H, W_j, C)
  A* lines;     // (N, row atoms, lines, C)
  A* products;  // (N, row atoms, C): sums of gathered values times the source
  Cuts cuts;
  int width, height;
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
  A* bands;  // (N, bands, 3, C): of the base's scale and shift, and of the gain
  int band, most_bands;
  unsigned char* memory;  // of all blocks, where shared memory is too small; or null
  int64_t memory_bytes;   // of one block
  int64_t items;
  Source<T> sources[kMostSources];
};

template <class T>
struct SourceGradients {
  SourceGradient<T> at[kMostSources];
};

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
