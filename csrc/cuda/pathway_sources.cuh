// The second launch of dense_pathway's backward: see dense_pathway_backward.cu.
#pragma once

#include "pathway_gradients.cuh"

namespace zigzag {
namespace cuda {

constexpr int kNear = 32;  // target rows that one source row is gathered from, with their weights at hand

// The first target row whose tap ends after source row r, or the first whose tap begins after it.
__device__ inline int first_target(int r, int64_t source, int64_t target, Resize resize, bool begins) {
  int low = 0, high = static_cast<int>(target);
  while (low < high) {
    const int middle = (low + high) / 2;
    const ResizeTap tap = resize_tap(middle, source, target, resize);
    if (begins ? tap.start > r : tap.start + tap.count > r) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

__device__ inline double row_weight(int r, int h, int64_t source, int64_t target, Resize resize) {
  const ResizeTap tap = resize_tap(h, source, target, resize);
  return tap.count == 2 && r > tap.start ? 1 - tap.first : tap.first;
}

// A source row's target rows, low .. high - 1, and the weights with which the first few read it. Vectors lie behind any
// number of these in shared memory.
template <class A>
struct alignas(16) Readers {
  int low, high;
  A weight[kNear];
};

template <class T, int V>
__global__ void __launch_bounds__(kPathwayThreads, 3)
    pathway_sources(const __grid_constant__ Backward<T> b, const __grid_constant__ SourceGradients<T> gradients) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  int j = 0;
  while (j + 1 < s.source_count && blockIdx.x >= gradients.at[j + 1].first_block) ++j;
  const SourceGradient<T>& own = gradients.at[j];
  const Source<T>& source = b.sources[j];
  const int64_t block = blockIdx.x - own.first_block;
  const int64_t channel = ((block % s.chunks) * blockDim.x + threadIdx.x) * V, rest = block / s.chunks;
  const int64_t image = rest / own.most_rows, atom = rest % own.most_rows;
  const bool inside = channel < s.channels;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int height = static_cast<int>(source.sizes.rows(image)), width = static_cast<int>(source.sizes.columns(image));
  const int64_t target_height = s.sizes.rows(image);

  const int lanes = blockDim.x * V;
  Readers<A>* const readers = shared_memory<Readers<A>>();
  A* const pieces =
      reinterpret_cast<A*>(readers + strip_of(own.cuts, own.height));  // [column atom][sum, product][lane]
  int* const tables = reinterpret_cast<int*>(pieces + 2 * most_atoms(own.cuts, own.width) * lanes);
  const Axis rows = place_axis(own.cuts, own.row_candidates, tables);
  const Axis columns =
      place_axis(own.cuts, own.column_candidates, tables + axis_integers(own.cuts, own.row_candidates));
  for (int64_t h = height + atom; inside && h < own.height; h += own.most_rows) {
    for (int w = threadIdx.y; w < own.width; w += blockDim.y) {
      store(own.grad.pixel(image, h, w, channel), splat<A, V>(0));
    }
  }
  cut_axis(own.cuts, height, thread, threads, rows);
  if (atom >= rows.count()) return;
  cut_axis(own.cuts, width, thread, threads, columns);
  const int first = rows.bounds[atom], end = rows.bounds[atom + 1];
  for (int i = thread; i < end - first; i += threads) {
    readers[i].low = first_target(first + i, height, target_height, s.resize, false);
    readers[i].high = first_target(first + i, height, target_height, s.resize, true);
  }
  __syncthreads();
  for (int i = thread; i < (end - first) * kNear; i += threads) {
    Readers<A>& own_readers = readers[i / kNear];
    const int h = own_readers.low + i % kNear;
    if (h >= own_readers.high) continue;
    own_readers.weight[i % kNear] = static_cast<A>(row_weight(first + i / kNear, h, height, target_height, s.resize));
  }
  __syncthreads();

  const int64_t at = image * s.channels + channel;
  for (int i = threadIdx.y; inside && i < columns.count(); i += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0), product = splat<A, V>(0);
    for (int r = first; r < end; ++r) {
      const Readers<A>& own_readers = readers[r - first];
      for (int w = columns.bounds[i]; w < columns.bounds[i + 1]; ++w) {
        const A* from = own.columns + ((image * s.height + own_readers.low) * own.width + w) * s.channels + channel;
        Vec<A, V> gathered = splat<A, V>(0);
        for (int h = own_readers.low; h < own_readers.high; ++h, from += own.width * s.channels) {
          const int k = h - own_readers.low;
          const A weight =
              k < kNear ? own_readers.weight[k] : static_cast<A>(row_weight(r, h, height, target_height, s.resize));
          add(gathered, weight, load<V>(from));
        }
        add(sum, gathered);
        if (own.grad_scale) add(product, gathered, load<V>(source.map.pixel(image, r, w, channel)));
        if (source.scale) multiply(gathered, load<V>(source.scale + at));
        store(own.grad.pixel(image, r, w, channel), gathered);
      }
    }
    store(pieces + 2 * i * lanes + threadIdx.x * V, sum);
    store(pieces + (2 * i + 1) * lanes + threadIdx.x * V, product);
  }
  for (int r = first; inside && r < end; ++r) {
    for (int w = width + threadIdx.y; w < own.width; w += blockDim.y) {
      store(own.grad.pixel(image, r, w, channel), splat<A, V>(0));
    }
  }
  __syncthreads();
  if (!inside) return;
  const int64_t row = image * own.most_rows + atom;
  const A* const piece = pieces + threadIdx.x * V;
  sum_lines<V>(own.cuts, columns, piece, 2 * lanes, own.lines + row * own.cuts.lines() * s.channels + channel,
               s.channels);
  if (threadIdx.y != 0) return;
  store(own.products + row * s.channels + channel, sum_atoms<V>(piece + lanes, columns.count(), 2 * lanes));
}

}  // namespace cuda
}  // namespace zigzag
