// The first launch of dense_pathway's backward: see dense_pathway_backward.cu.
#pragma once

#include "pathway_gradients.cuh"

namespace zigzag {
namespace cuda {

// A block's tables and rows, in shared or in global memory.
template <class A>
struct Rows {
  Taps<A> taps;  // per source: every target column, and at last the row
  int* low;      // per source and source column: the first target column that reads it
  int* high;     // and the last
  A* slots;      // per source and target column: R^j resized, then D^j
};

inline int64_t round16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

template <class A>
__device__ Rows<A> place_rows(const PathwayShape& s, int source_columns, unsigned char* memory) {
  const int64_t entries = int64_t{s.source_count} * (s.width + 1);
  int* const low = reinterpret_cast<int*>(memory + taps_bytes<A>(entries, s.grids.count));
  const int64_t integers = (2 * source_columns * static_cast<int64_t>(sizeof(int)) + 15) / 16 * 16;
  return {place_taps<A>(memory, entries, s.grids.count), low, low + source_columns,
          reinterpret_cast<A*>(reinterpret_cast<unsigned char*>(low) + integers)};
}

template <class A>
int64_t rows_bytes(const PathwayShape& s, int64_t source_columns, int64_t lanes) {
  return taps_bytes<A>(int64_t{s.source_count} * (s.width + 1), s.grids.count) +
         round16(2 * source_columns * sizeof(int)) + s.source_count * int64_t{s.width} * lanes * sizeof(A);
}

// Of one target pixel: turns R^j resized, in the slots, into D^j; returns the product (or sum) of all.
template <class T, int V>
__device__ Vec<Wide<T>, V> differentiate(const Backward<T>& b, const Vec<Wide<T>, V>& through, int64_t at,
                                         Wide<T>* slots, int64_t step) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const auto value_of = [&](int j) {
    Vec<A, V> value = load<V>(slots + j * step);
    apply_affine(value, b.sources[j].scale, b.sources[j].shift, at);
    return value;
  };
  Vec<A, V> after = splat<A, V>(s.product ? 1 : 0);
  for (int j = s.source_count - 1; j >= 0; --j) {
    const Vec<A, V> value = value_of(j);
    Vec<A, V> change = through;
    if (s.product) {
      multiply(change, after);
      for (int k = 0; k < j; ++k) multiply(change, value_of(k));
      multiply(after, value);
    } else {
      add(after, value);
    }
    store(slots + j * step, change);
  }
  return after;
}

// D^j of one target row for all sources, into the slots.
template <class T, int V>
__device__ void differentiate_row(const Backward<T>& b, const Rows<Wide<T>>& rows, int64_t image, int h, int width,
                                  int64_t channel, Vec<Wide<T>, V> (&tables)[3]) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const int lanes = blockDim.x * V;
  const int64_t at = image * s.channels + channel;
  const A* const scale = b.base_scale ? b.base_scale + at : nullptr;
  const A* const shift = b.base_shift ? b.base_shift + at : nullptr;
  for (int w = threadIdx.y; w < width; w += blockDim.y) {
    Arriving<T, V> arriving = {};
    if (b.base.data) arriving.base = fetch<T, V>(b.base.pixel(image, h, w, channel));
    if (b.grad.data) arriving.grad = fetch<T, V>(b.grad.pixel(image, h, w, channel));
    if (b.grad_sum.data) arriving.grad_sum = fetch<T, V>(b.grad_sum.pixel(image, h, w, channel));
    const Vec<A, V> grad = differentiate_base<T, V>(b, arriving, scale, shift, b.grad_base.pixel(image, h, w, channel),
                                                    tables[0], tables[1]);
    if (s.source_count == 0) continue;
    A* const slots = rows.slots + w * lanes + threadIdx.x * V;
    for (int j = 0; j < s.source_count; ++j) {
      const Source<T>& source = b.sources[j];
      const int first = j * (s.width + 1), row = first + s.width;
      Vec<A, V> value = mix_pixels<T, V>(source.map, image, channel, rows.taps.tap[row], rows.taps.tap[first + w]);
      if (source.codes) {
        add(value, mix_codes<A, V>(source.codes + image * s.grids.cells * s.channels + channel, s.channels, s.grids,
                                   rows.taps, row, first + w, source.sizes.rows(image), source.sizes.columns(image)));
      }
      store(slots + j * s.width * lanes, value);
    }
    Vec<A, V> through = grad;
    if (b.gain) multiply(through, load<V>(b.gain + channel));
    const Vec<A, V> all = differentiate<T, V>(b, through, at, slots, s.width * lanes);
    add(tables[2], grad, all);
  }
}

// E^j of one target row: each source column gathers D^j from the target columns that read it.
template <class T, int V>
__device__ void gather_columns(const Backward<T>& b, const SourceGradients<T>& gradients, const Rows<Wide<T>>& rows,
                               int64_t image, int h, int64_t channel) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const int lanes = blockDim.x * V;
  int columns = 0;
  for (int j = 0; j < s.source_count; ++j) {
    const SourceGradient<T>& own = gradients.at[j];
    const int width = static_cast<int>(b.sources[j].sizes.columns(image));
    for (int r = threadIdx.y; r < width; r += blockDim.y) {
      Vec<A, V> sum = splat<A, V>(0);
      for (int w = rows.low[columns + r]; w <= rows.high[columns + r]; ++w) {
        const A weight = weight_of_row(rows.taps.tap[j * (s.width + 1) + w], r);
        add(sum, weight, load<V>(rows.slots + (j * s.width + w) * lanes + threadIdx.x * V));
      }
      store(own.columns + (image * own.plane + h * int64_t{own.width} + r) * s.channels + channel, sum);
    }
    columns += own.width;
  }
}

template <class T, int V>
__device__ void zero_outside(const Backward<T>& b, int64_t image, int first, int end, int height, int width,
                             int64_t channel) {
  for (int h = first; h < end; ++h) {
    for (int w = (h < height ? width : 0) + threadIdx.y; w < b.shape.width; w += blockDim.y) {
      write(b.grad_base.pixel(image, h, w, channel), splat<Wide<T>, V>(0));
    }
  }
}

// One item: a band of rows of one image, a chunk of the channels.
template <class T, int V>
__device__ void target_band(const Backward<T>& b, const SourceGradients<T>& gradients, int64_t item, int source_columns,
                            unsigned char* memory) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const int64_t channel = ((item % s.chunks) * blockDim.x + threadIdx.x) * V, rest = item / s.chunks;
  const int64_t image = rest / b.most_bands, band = rest % b.most_bands;
  const bool inside = channel < s.channels;
  if (walks(b, image)) return;
  const int height = static_cast<int>(s.sizes.rows(image)), width = static_cast<int>(s.sizes.columns(image));
  const int first = static_cast<int>(band) * b.band, end = first + b.band < s.height ? first + b.band : s.height;
  const Rows<A> rows = place_rows<A>(s, source_columns, memory);
  for (int i = thread; i < s.source_count * width; i += threads) {
    const int j = i / width, w = i % width;
    make_tap(rows.taps, j * (s.width + 1) + w, w, b.sources[j].sizes.columns(image), width, s.grids, s.resize);
  }
  int columns = 0;  // invert_columns has a barrier before it reads the taps
  for (int j = 0; j < s.source_count; ++j) {
    invert_columns(rows.taps, j * (s.width + 1), width, {0, b.sources[j].sizes.columns(image)}, thread, threads,
                   rows.low + columns, rows.high + columns);
    columns += gradients.at[j].width;
  }
  Vec<A, V> tables[3] = {splat<A, V>(0), splat<A, V>(0), splat<A, V>(0)};
  for (int h = first; h < end && h < height; ++h) {  // the last row is still gathered, but not from its row's tap
    for (int j = thread; j < s.source_count; j += threads) {
      make_tap(rows.taps, j * (s.width + 1) + s.width, h, b.sources[j].sizes.rows(image), height, s.grids, s.resize);
    }
    __syncthreads();
    if (inside) differentiate_row<T, V>(b, rows, image, h, width, channel, tables);
    __syncthreads();
    if (inside) gather_columns<T, V>(b, gradients, rows, image, h, channel);
  }
  if (inside) zero_outside<T, V>(b, image, first, end, height, width, channel);
  for (int i = 0; i < 3; ++i) {
    const Vec<A, V> sum = sum_workers(tables[i], reinterpret_cast<A*>(memory));
    if (inside && threadIdx.y == 0) store(b.bands + ((image * b.most_sums + band) * 3 + i) * s.channels + channel, sum);
  }
  __syncthreads();
}

template <class T, int V>
__global__ void __launch_bounds__(kPathwayThreads, 3)
    pathway_targets(const __grid_constant__ Backward<T> b, const __grid_constant__ SourceGradients<T> gradients,
                    int source_columns) {
  unsigned char* const memory = b.memory ? b.memory + blockIdx.x * b.memory_bytes : shared_memory<unsigned char>();
  for (int64_t item = blockIdx.x; item < b.items; item += gridDim.x) {
    target_band<T, V>(b, gradients, item, source_columns, memory);
  }
}

}  // namespace cuda
}  // namespace zigzag
