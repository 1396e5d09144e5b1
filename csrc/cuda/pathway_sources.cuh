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

// The rows that a source row is gathered from, `count` of them from `first`, and the weights of the first few. Vectors
// lie behind any number of these in shared memory.
template <class A>
struct alignas(16) Readers {
  int first, count;
  A weight[kNear];
};

// The source rows (columns) that each part of an axis of the target has sums for: from .. end - 1.
struct Shares {
  int count;
  int *from, *end;

  __device__ int first_of(int r) const {
    int part = 0;
    while (end[part] <= r) ++part;
    return part;
  }
  __device__ bool has(int part, int r) const { return part < count && from[part] <= r; }
};

// Of an image that pathway_walk does; of another, the target is one part. All threads of the block take part.
__device__ inline Shares share_axis(bool walked, int most, int64_t source, int64_t target, Resize resize, int thread,
                                    int threads, int* memory) {
  const Parts parts = walked ? parts_of(target, most) : Parts{1, static_cast<int>(target)};
  const Shares shares = {parts.count, memory, memory + parts.count};
  for (int p = thread; p < parts.count; p += threads) {
    const ResizeTap last = resize_tap(parts.end(p, static_cast<int>(target)) - 1, source, target, resize);
    shares.from[p] = walked ? static_cast<int>(resize_tap(parts.first(p), source, target, resize).start) : 0;
    shares.end[p] = walked ? static_cast<int>(last.start + last.count) : static_cast<int>(source);
  }
  __syncthreads();
  return shares;
}

// Integers that both axes' shares take.
ZIGZAG_HOST_DEVICE inline int share_integers(int height, int width) {
  return 2 * (parts_of(height, kWalkRows).count + parts_of(width, kWalkColumns).count);
}

// Where source rows first .. end - 1 are gathered from; all threads of the block take part.
template <class A>
__device__ void find_readers(bool walked, const Shares& shares, int first, int end, int64_t source, int64_t target,
                             Resize resize, int thread, int threads, Readers<A>* readers) {
  for (int i = thread; i < end - first; i += threads) {
    const int r = first + i;
    if (walked) {
      const int part = shares.first_of(r);
      int count = 1;
      while (shares.has(part + count, r)) ++count;
      readers[i].first = r + 2 * part, readers[i].count = count;
      continue;
    }
    readers[i].first = first_target(r, source, target, resize, false);
    readers[i].count = first_target(r, source, target, resize, true) - readers[i].first;
  }
  __syncthreads();
  for (int i = thread; i < (end - first) * kNear; i += threads) {
    Readers<A>& own = readers[i / kNear];
    const int k = i % kNear;
    if (k >= own.count) continue;
    own.weight[k] =
        walked ? A(1) : static_cast<A>(row_weight(first + i / kNear, own.first + k, source, target, resize));
  }
  __syncthreads();
}

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
  const int64_t target_height = s.sizes.rows(image), target_width = s.sizes.columns(image);
  const bool walked = walks(b, image);

  const int lanes = blockDim.x * V;
  Readers<A>* const readers = shared_memory<Readers<A>>();
  A* const pieces =
      reinterpret_cast<A*>(readers + strip_of(own.cuts, own.height));  // [column atom][sum, product][lane]
  int* const tables = reinterpret_cast<int*>(pieces + 2 * most_atoms(own.cuts, own.width) * lanes);
  const Axis rows = place_axis(own.cuts, own.row_candidates, tables);
  const Axis columns =
      place_axis(own.cuts, own.column_candidates, tables + axis_integers(own.cuts, own.row_candidates));
  int* const row_shares =
      tables + axis_integers(own.cuts, own.row_candidates) + axis_integers(own.cuts, own.column_candidates);
  for (int64_t h = height + atom; inside && h < own.height; h += own.most_rows) {
    for (int w = threadIdx.y; w < own.width; w += blockDim.y) {
      write(own.grad.pixel(image, h, w, channel), splat<A, V>(0));
    }
  }
  cut_axis(own.cuts, height, thread, threads, rows);
  if (atom >= rows.count()) return;
  cut_axis(own.cuts, width, thread, threads, columns);
  const int first = rows.bounds[atom], end = rows.bounds[atom + 1];
  const Shares shares = share_axis(walked, kWalkRows, height, target_height, s.resize, thread, threads, row_shares);
  const Shares across =
      share_axis(walked, kWalkColumns, width, target_width, s.resize, thread, threads, row_shares + 2 * shares.count);
  find_readers(walked, shares, first, end, height, target_height, s.resize, thread, threads, readers);

  const int64_t at = image * s.channels + channel;
  const int64_t pitch = walked ? own.pitch : own.width, step = (walked ? 2 : 1) * pitch * s.channels;
  for (int i = threadIdx.y; inside && i < columns.count(); i += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0), product = splat<A, V>(0);
    for (int r = first; r < end; ++r) {
      const Readers<A>& rows_read = readers[r - first];
      int part = across.first_of(columns.bounds[i]);
      for (int w = columns.bounds[i]; w < columns.bounds[i + 1]; ++w) {
        while (across.end[part] <= w) ++part;
        Vec<A, V> gathered = splat<A, V>(0);
        for (int p = part; across.has(p, w); ++p) {
          const A* from =
              own.columns + (image * own.plane + rows_read.first * pitch + w + 2 * p) * s.channels + channel;
          for (int k = 0; k < rows_read.count; ++k, from += step) {
            const A weight = k < kNear ? rows_read.weight[k]
                             : walked
                                 ? A(1)
                                 : static_cast<A>(row_weight(r, rows_read.first + k, height, target_height, s.resize));
            add(gathered, weight, load<V>(from));
          }
        }
        add(sum, gathered);
        if (own.grad_scale) add(product, gathered, load<V>(source.map.pixel(image, r, w, channel)));
        if (source.scale) multiply(gathered, load<V>(source.scale + at));
        write(own.grad.pixel(image, r, w, channel), gathered);
      }
    }
    store(pieces + 2 * i * lanes + threadIdx.x * V, sum);
    store(pieces + (2 * i + 1) * lanes + threadIdx.x * V, product);
  }
  for (int r = first; inside && r < end; ++r) {
    for (int w = width + threadIdx.y; w < own.width; w += blockDim.y) {
      write(own.grad.pixel(image, r, w, channel), splat<A, V>(0));
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
