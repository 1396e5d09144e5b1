// What a block of pathway_walk has: its place, and in shared memory all that its threads share or would run out of
// registers for. See pathway_walk.cuh.
#pragma once

#include "pathway_gradients.cuh"

namespace zigzag {
namespace cuda {

constexpr int kWalkLanes = 4;  // 64 bytes of every pixel: with fewer columns in a block, more source columns are shared
constexpr int kWalkThreads = kWalkLanes * kWalkColumns;
// Blocks of a multiprocessor at least; ptxas spills some bytes of float16 for sm_100 where it is to leave room for
// three.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kWalkBlocks = 2;
#else
constexpr int kWalkBlocks = 3;
#endif
constexpr int kWalkTaps = kWalkRows + kWalkColumns;
constexpr int kMostWalked = 3;                   // sources
constexpr int kMostGathered = kWalkColumns + 1;  // source columns that the columns of a block read

// The steps of a block: bit j before a target row, or after the last: the upper row of source j is left; bit kHolds +
// j: another is read. The others: there is such a target row; there is one after it; this was the last step.
constexpr int kHolds = 8;
constexpr unsigned kLeaves = 0x00ff, kAnyHeld = 0xff00, kRow = 1 << 16, kNextRow = 1 << 17, kEnd = 1 << 18;

// A vector of each thread, in pieces of 16 bytes, the same piece of all side by side: no two threads meet in a bank.
template <class A, int V>
struct alignas(16) VectorRow {
  static constexpr int size = 16 / static_cast<int>(sizeof(A)), count = V / size;
  typedef Vec<A, size> Piece;

  A values[count][kWalkThreads][size];

  __device__ Piece piece(int k, int thread) const { return load<size>(values[k][thread]); }
  __device__ Vec<A, V> get(int thread) const {
    Vec<A, V> vector;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const Piece part = piece(k, thread);
#pragma unroll
      for (int i = 0; i < size; ++i) vector.at[k * size + i] = part.at[i];
    }
    return vector;
  }
  __device__ void put(int thread, const Vec<A, V>& vector) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      Piece piece;
#pragma unroll
      for (int i = 0; i < size; ++i) piece.at[i] = vector.at[k * size + i];
      store(values[k][thread], piece);
    }
  }
};

// What a block needs of a source: computed where it is used, it would take the registers of every thread.
struct WalkSource {
  int64_t map, codes, sums;  // where the image lies in the map and in the codes, and the part in the sums
  int begin, count;          // source columns
};

// A block's shared memory, but for the taps' cells, which follow it.
template <class A, int V, int K>
struct alignas(16) WalkMemory {
  WalkSource sources[K];
  int64_t part;                                       // among all that have sums for the base's tables
  Tap<A> taps[K * kWalkTaps];                         // per source: target rows, then target columns
  int low[K][kMostGathered], high[K][kMostGathered];  // the target columns that read each source column
  VectorRow<A, V> held[K][2];                         // source rows, at their places modulo 2, codes and affine applied
  VectorRow<A, V> codes[K];                           // of the source row that was held last
  VectorRow<A, V> slots[K];                           // sums of a source row
  A source_scale[K][kWalkLanes * V], source_shift[K][kWalkLanes * V];    // in the block's channels
  A scale[kWalkLanes * V], shift[kWalkLanes * V], gain[kWalkLanes * V];  // of the base
  unsigned steps[kWalkRows + 2];
  int cells[];

  __device__ Taps<A> all_taps(const Grids& grids) { return {taps, cells, grids.count}; }
};

template <class A, int V, int K>
size_t walk_bytes(int grids) {
  return sizeof(WalkMemory<A, V, K>) + 2 * K * kWalkTaps * grids * sizeof(int);
}

// Where a block works, and a thread in it.
struct WalkPlace {
  int64_t image;
  int row_part, column_part;                   // of the image
  int first_row, rows, first_column, columns;  // of the target
  int channel, thread;
  bool inside, active;  // whether there are such channels; and such a column

  // Of the block's row i, and of its columns.
  __device__ static int row_tap(int j, int i) { return j * kWalkTaps + i; }
  __device__ static int column_tap(int j, int column) { return j * kWalkTaps + kWalkRows + column; }
};

template <class T>
__device__ WalkPlace walk_place(const Backward<T>& b, int vector) {
  const PathwayShape& s = b.shape;
  const int tiles = parts_of(s.width, kWalkColumns).count, bands = parts_of(s.height, kWalkRows).count;
  int64_t rest = blockIdx.x / b.walk_chunks;
  WalkPlace at = {};
  at.channel = (static_cast<int>(blockIdx.x % b.walk_chunks) * blockDim.x + threadIdx.x) * vector;
  at.column_part = static_cast<int>(rest % tiles), rest /= tiles;
  at.row_part = static_cast<int>(rest % bands), at.image = rest / bands;
  at.thread = threadIdx.y * blockDim.x + threadIdx.x;
  at.inside = at.channel < s.channels;
  return at;
}

// Source rows move on by one at most from one target row to the next, as no source is finer. After the last target row,
// the two rows that are left are left one by one.
template <class A, int V, int K>
__device__ unsigned steps_before(const WalkMemory<A, V, K>& m, const WalkPlace& at, int i) {
  unsigned steps = i < at.rows ? kRow : i > at.rows ? kEnd : 0;
  if (i + 1 < at.rows) steps |= kNextRow;
  for (int j = 0; j < K; ++j) {
    const Tap<A>* const tap = m.taps + at.row_tap(j, i);
    if (i >= at.rows) {
      steps |= (i == at.rows || tap[-2].count == 2) << j;
    } else if (i == 0) {
      steps |= 1 << (kHolds + j);
    } else {
      steps |= (tap[-1].start < tap->start) << j;
      steps |= (tap[-1].start + tap[-1].count < tap->start + tap->count) << (kHolds + j);
    }
  }
  return steps;
}

// The affines and the gain, in the block's channels; 1 and 0 where there are none.
template <class T, int V, int K>
__device__ void copy_tables(const Backward<T>& b, WalkMemory<Wide<T>, V, K>& m, const WalkPlace& at) {
  typedef Wide<T> A;
  const int64_t of_image = at.image * b.shape.channels + at.channel;
  const auto copy = [](const A* from, int64_t offset, A otherwise, A* to) {
    store(to + threadIdx.x * V, from ? load<V>(from + offset) : splat<A, V>(otherwise));
  };
  for (int i = threadIdx.y; at.inside && i < 3 + 2 * K; i += blockDim.y) {
    const int j = (i - 3) / 2;  // in the last two cases
    if (i == 0) {
      copy(b.base_scale, of_image, 1, m.scale);
    } else if (i == 1) {
      copy(b.base_shift, of_image, 0, m.shift);
    } else if (i == 2) {
      copy(b.gain, at.channel, 1, m.gain);
    } else if (i % 2 == 1) {
      copy(b.sources[j].scale, of_image, 1, m.source_scale[j]);
    } else {
      copy(b.sources[j].shift, of_image, 0, m.source_shift[j]);
    }
  }
}

// What of the block's memory does not change; all threads take part.
template <class T, int V, int K>
__device__ void prepare_walk(const Backward<T>& b, const SourceGradients<T>& gradients, WalkMemory<Wide<T>, V, K>& m,
                             const WalkPlace& at, int height, int width) {
  const PathwayShape& s = b.shape;
  const int threads = blockDim.x * blockDim.y;
  const Taps<Wide<T>> taps = m.all_taps(s.grids);
  for (int i = at.thread; i < K * kWalkTaps; i += threads) {
    const Sizes& sizes = b.sources[i / kWalkTaps].sizes;
    const int k = i % kWalkTaps;
    const bool of_rows = k < kWalkRows;
    const int pixel = of_rows ? at.first_row + k : at.first_column + k - kWalkRows;
    if (pixel >= (of_rows ? at.first_row + at.rows : at.first_column + at.columns)) continue;
    make_tap(taps, i, pixel, of_rows ? sizes.rows(at.image) : sizes.columns(at.image), of_rows ? height : width,
             s.grids, s.resize);
  }
  copy_tables<T, V, K>(b, m, at);
  __syncthreads();
  for (int i = at.thread; i < at.rows + 2; i += threads) m.steps[i] = steps_before(m, at, i);
  for (int j = 0; j < K; ++j) {
    const Tap<Wide<T>>* const columns = m.taps + at.column_tap(j, 0);
    const Span read = {columns[0].start, columns[at.columns - 1].start + columns[at.columns - 1].count};
    if (at.thread == 0) {
      const SourceGradient<T>& own = gradients.at[j];
      const int64_t corner = 2 * at.row_part * int64_t{own.pitch} + read.first + 2 * at.column_part;
      m.sources[j] = {at.image * b.sources[j].map.n, at.image * s.grids.cells * s.channels,
                      (at.image * own.plane + corner) * s.channels, static_cast<int>(read.first),
                      static_cast<int>(read.end - read.first)};
    }
    invert_columns(taps, at.column_tap(j, 0), at.columns, read, at.thread, threads, m.low[j], m.high[j]);
  }
  __syncthreads();
}

}  // namespace cuda
}  // namespace zigzag
