// dense_pathway backward: gathers, recomputes the product and never divides.
//
// Let D^j be the gradient of source j resized, before its affine: the target's gradient times the gain and the other
// sources' values. Three launches:
//   pathway_targets   goes over target rows: the base's gradient, D^j (of one row, in shared memory) and from it
//                     E^j, D^j brought back to the source's columns;
//   pathway_sources   goes over source rows: E^j brought back to them, whose affine's scale makes the source's
//   gradient,
//                     and its sums over every cell's columns;
//   pathway_tables    adds up what codes, affines and gain get.
// Resizing has weights that sum to one, so the shift's gradient is the sum of the gathered values, and the scale's that
// of their products with the source and its codes.
#include "atoms.cuh"
#include "pathway.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBands = 4;  // target rows of a block, where there are many
constexpr int64_t kManyBlocks = 2048;
constexpr int kNear = 32;  // target rows that one source row is gathered from, with their weights at hand
constexpr size_t kShared = size_t{96} << 10;  // of a block, on every GPU since sm_80

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

// --- target rows
// ------------------------------------------------------------------------------------------------------

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

// The target columns that read each source column. Both ends of a tap only go forward, so each is written once.
template <class A>
__device__ void invert_columns(const Taps<A>& taps, int first, int width, int source_width, int thread, int threads,
                               int* low, int* high) {
  for (int r = thread; r < source_width; r += threads) low[r] = width, high[r] = -1;
  __syncthreads();
  for (int w = thread; w < width; w += threads) {
    const Tap<A> tap = taps.tap[first + w];
    const int end = tap.start + tap.count;
    const int end_before = w > 0 ? taps.tap[first + w - 1].start + taps.tap[first + w - 1].count : 0;
    const int start_after = w + 1 < width ? taps.tap[first + w + 1].start : source_width;
    for (int r = end_before; r < end; ++r) low[r] = w;
    for (int r = tap.start; r < start_after; ++r) high[r] = w;
  }
}

// The weight with which a tap reads source row r.
template <class A>
__device__ A weight_of_row(const Tap<A>& tap, int r) {
  return tap.count == 1 ? A(1) : tap.weight(r - tap.start);
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

// The gradient that arrives at one target pixel, and what of it reaches the base, which is written.
template <class T, int V>
__device__ Vec<Wide<T>, V> differentiate_base(const Backward<T>& b, int64_t image, int h, int w, int64_t channel,
                                              Vec<Wide<T>, V>& grad_scale, Vec<Wide<T>, V>& grad_shift) {
  typedef Wide<T> A;
  const int64_t at = image * b.shape.channels + channel;
  Vec<A, V> grad = splat<A, V>(0);
  if (b.grad.data) grad = load<V>(b.grad.pixel(image, h, w, channel));
  if (b.grad_sum.data) add(grad, load<V>(b.grad_sum.pixel(image, h, w, channel)));
  Vec<A, V> through = grad;
  if (b.base.data) {
    const Vec<A, V> x = load<V>(b.base.pixel(image, h, w, channel));
    Vec<A, V> y = x;
    apply_affine(y, b.base_scale, b.base_shift, at);
#pragma unroll
    for (int i = 0; i < V; ++i) through.at[i] = b.shape.relu && y.at[i] <= 0 ? 0 : grad.at[i];
    add(grad_scale, through, x);
    add(grad_shift, through);
    if (b.base_scale) multiply(through, load<V>(b.base_scale + at));
  }
  store(b.grad_base.pixel(image, h, w, channel), through);
  return grad;
}

// D^j of one target row for all sources, into the slots.
template <class T, int V>
__device__ void differentiate_row(const Backward<T>& b, const Rows<Wide<T>>& rows, int64_t image, int h, int width,
                                  int64_t channel, Vec<Wide<T>, V> (&tables)[3]) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const int lanes = blockDim.x * V;
  for (int w = threadIdx.y; w < width; w += blockDim.y) {
    Vec<A, V> grad = differentiate_base<T, V>(b, image, h, w, channel, tables[0], tables[1]);
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
    const Vec<A, V> all = differentiate<T, V>(b, through, image * s.channels + channel, slots, s.width * lanes);
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
      store(own.columns + ((image * s.height + h) * own.width + r) * s.channels + channel, sum);
    }
    columns += own.width;
  }
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

template <class T, int V>
__device__ void zero_outside(const Backward<T>& b, int64_t image, int first, int end, int height, int width,
                             int64_t channel) {
  for (int h = first; h < end; ++h) {
    for (int w = (h < height ? width : 0) + threadIdx.y; w < b.shape.width; w += blockDim.y) {
      store(b.grad_base.pixel(image, h, w, channel), splat<Wide<T>, V>(0));
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
  const int height = static_cast<int>(s.sizes.rows(image)), width = static_cast<int>(s.sizes.columns(image));
  const int first = static_cast<int>(band) * b.band, end = first + b.band < s.height ? first + b.band : s.height;
  const Rows<A> rows = place_rows<A>(s, source_columns, memory);
  for (int i = thread; i < s.source_count * width; i += threads) {
    const int j = i / width, w = i % width;
    make_tap(rows.taps, j * (s.width + 1) + w, w, b.sources[j].sizes.columns(image), width, s.grids, s.resize);
  }
  __syncthreads();
  int columns = 0;
  for (int j = 0; j < s.source_count; ++j) {
    invert_columns(rows.taps, j * (s.width + 1), width, static_cast<int>(b.sources[j].sizes.columns(image)), thread,
                   threads, rows.low + columns, rows.high + columns);
    columns += gradients.at[j].width;
  }
  Vec<A, V> tables[3] = {splat<A, V>(0), splat<A, V>(0), splat<A, V>(0)};
  for (int h = first; h < end && h < height; ++h) {
    __syncthreads();
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
    if (inside && threadIdx.y == 0)
      store(b.bands + ((image * b.most_bands + band) * 3 + i) * s.channels + channel, sum);
  }
  __syncthreads();
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 3)
    pathway_targets(const __grid_constant__ Backward<T> b, const __grid_constant__ SourceGradients<T> gradients,
                    int source_columns) {
  unsigned char* const memory = b.memory ? b.memory + blockIdx.x * b.memory_bytes : shared_memory<unsigned char>();
  for (int64_t item = blockIdx.x; item < b.items; item += gridDim.x) {
    target_band<T, V>(b, gradients, item, source_columns, memory);
  }
}

// --- source rows
// ------------------------------------------------------------------------------------------------------

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

// A source row's target rows, low .. high - 1, and the weights with which the first few read it.
template <class A>
struct Readers {
  int low, high;
  A weight[kNear];
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 3)
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

// --- tables
// -----------------------------------------------------------------------------------------------------------

// The gradients of one source's codes, scale and shift, for one image and a chunk of channels.
template <class T, int V>
__device__ void source_tables(const Backward<T>& b, const Source<T>& source, const SourceGradient<T>& own,
                              int64_t image, int64_t channel, Wide<T>* memory) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const Axis rows = place_axis(own.cuts, own.row_candidates, reinterpret_cast<int*>(memory + threads * V));
  cut_axis(own.cuts, source.sizes.rows(image), thread, threads, rows);
  const bool inside = channel < s.channels;
  const int64_t at = image * s.channels + channel;
  const Grids& grids = own.cuts.grids;
  Vec<A, V> scale = splat<A, V>(1), grad_scale = splat<A, V>(0), grad_shift = splat<A, V>(0);
  if (inside && source.scale) scale = load<V>(source.scale + at);
  for (int g = 0; g < grids.count; ++g) {
    for (int i = threadIdx.y; inside && i < grids.size[g] * grids.size[g]; i += blockDim.y) {
      const int y = grids.first_line[g] + i / grids.size[g], x = grids.first_line[g] + i % grids.size[g];
      const int64_t step = own.cuts.lines() * s.channels;
      const A* const from = own.lines + (image * own.most_rows + rows.low[y]) * step + x * s.channels + channel;
      Vec<A, V> sum = sum_atoms<V>(from, rows.high[y] - rows.low[y], step);
      if (g == 0) add(grad_shift, sum);
      if (!source.codes) continue;
      const int64_t cell = ((image * grids.cells) + grids.first_cell[g] + i) * s.channels + channel;
      add(grad_scale, sum, load<V>(source.codes + cell));
      multiply(sum, scale);
      store(own.grad_codes + cell, sum);
    }
  }
  grad_scale = sum_workers(grad_scale, memory);
  grad_shift = sum_workers(grad_shift, memory);
  if (!inside || threadIdx.y != 0 || !own.grad_scale) return;
  add(grad_scale, sum_atoms<V>(own.products + image * own.most_rows * s.channels + channel, rows.count(), s.channels));
  store(own.grad_scale + at, grad_scale);
  store(own.grad_shift + at, grad_shift);
}

// A block: one source (or, after the last, what belongs to the base) of one image, a chunk of the channels.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 3)
    pathway_tables(const __grid_constant__ Backward<T> b, const __grid_constant__ SourceGradients<T> gradients,
                   int64_t chunks) {
  typedef Wide<T> A;
  const PathwayShape& s = b.shape;
  const int64_t channel = ((blockIdx.x % chunks) * blockDim.x + threadIdx.x) * V, rest = blockIdx.x / chunks;
  const int64_t image = rest % s.images;
  const int j = static_cast<int>(rest / s.images);
  if (j < s.source_count) {
    source_tables<T, V>(b, b.sources[j], gradients.at[j], image, channel, shared_memory<A>());
    return;
  }
  A* const tables[3] = {b.grad_base_scale, b.grad_base_shift, b.grad_gain};
  if (channel >= s.channels || threadIdx.y >= 3 || !tables[threadIdx.y]) return;
  const A* const from = b.bands + (image * b.most_bands * 3 + threadIdx.y) * s.channels + channel;
  store(tables[threadIdx.y] + image * s.channels + channel, sum_atoms<V>(from, b.most_bands, 3 * s.channels));
}

// --- launches
// ---------------------------------------------------------------------------------------------------------

// What the launches of one call have in common: shapes, and where everything lies in scratch.
template <class T>
struct Plan {
  typedef Wide<T> A;

  explicit Plan(const DensePathway& args) {
    vectors = packs(args.base, V, sizeof(T)) && packs(args.grad, V, sizeof(T)) && packs(args.grad_sum, V, sizeof(T)) &&
              packs(args.grad_base, V, sizeof(T)) && args.target.c % V == 0;
    b.shape = pathway_shape(args);
    const PathwayShape& s = b.shape;
    b.base = view<const T>(args.base), b.grad = view<const T>(args.grad), b.grad_sum = view<const T>(args.grad_sum);
    b.grad_base = view<T>(args.grad_base);
    b.base_scale = static_cast<const A*>(args.base_scale), b.base_shift = static_cast<const A*>(args.base_shift);
    b.gain = static_cast<const A*>(args.gain);
    b.grad_base_scale = static_cast<A*>(args.grad_base_scale);
    b.grad_base_shift = static_cast<A*>(args.grad_base_shift);
    b.grad_gain = static_cast<A*>(args.grad_gain);
    for (int j = 0; j < s.source_count; ++j) add_source(args.sources[j], j);
    team = team_for(s.channels);
    b.shape.chunks = team.chunks;
    b.band = s.images * s.height * team.chunks >= kManyBlocks * kBands ? kBands : 1;
    b.most_bands = static_cast<int>(ceil_div(s.height, b.band));
    b.items = s.images * b.most_bands * team.chunks;
    b.memory_bytes = round16(block_bytes());
    blocks =
        b.memory_bytes <= static_cast<int64_t>(kShared) ? b.items : (b.items < kManyBlocks ? b.items : kManyBlocks);
  }

  static constexpr int V = kFull<T>;

  void add_source(const PathwaySource& source, int j) {
    b.sources[j] = source_of<T>(source);
    SourceGradient<T>& own = gradients.at[j];
    own.grad = view<T>(source.grad);
    own.grad_codes = static_cast<A*>(source.grad_codes);
    own.grad_scale = static_cast<A*>(source.grad_scale), own.grad_shift = static_cast<A*>(source.grad_shift);
    if (source.codes) {
      own.cuts.grids = b.shape.grids;
    } else {
      own.cuts.grids.push(1);
    }
    own.width = static_cast<int>(source.map.w), own.height = static_cast<int>(source.map.h);
    own.most_rows = most_atoms(own.cuts, own.height);
    own.row_candidates = most_candidates(own.cuts, own.height);
    own.column_candidates = most_candidates(own.cuts, own.width);
    source_columns += own.width;
    vectors = vectors && packs(source.map, V, sizeof(T)) && packs(source.grad, V, sizeof(T));
  }

  // As many lanes as leave room for two blocks, up to 128 bytes of every pixel.
  Team team_for(int64_t channels) const {
    const int vector = vectors ? V : 1;
    int lanes = vectors ? 8 : 32;
    while (lanes > 1 && rows_bytes<A>(b.shape, source_columns, lanes * vector) > static_cast<int64_t>(kShared) / 2) {
      lanes /= 2;
    }
    return team_of(channels, vector, lanes, kThreads);
  }

  int64_t block_bytes() const {
    const int64_t lanes = int64_t{team.lanes} * (vectors ? V : 1);
    const int64_t rows = rows_bytes<A>(b.shape, source_columns, lanes), tables = team.workers * lanes * sizeof(A);
    return rows > tables ? rows : tables;
  }

  // Lays out scratch from `base`; returns how many values it takes.
  int64_t place(A* base) {
    const PathwayShape& s = b.shape;
    int64_t at = 0;
    const auto take = [&](int64_t count) {
      A* const from = base + at;
      at += (count + 15) / 16 * 16;
      return from;
    };
    b.bands = take(s.images * b.most_bands * 3 * s.channels);
    int64_t block = 0;
    for (int j = 0; j < s.source_count; ++j) {
      SourceGradient<T>& own = gradients.at[j];
      own.columns = take(s.images * s.height * own.width * s.channels);
      own.lines = take(s.images * own.most_rows * own.cuts.lines() * s.channels);
      own.products = take(s.images * own.most_rows * s.channels);
      own.first_block = block;
      block += s.images * own.most_rows * s.chunks;
    }
    source_blocks = block;
    b.memory = nullptr;
    if (b.memory_bytes > static_cast<int64_t>(kShared)) {
      b.memory = reinterpret_cast<unsigned char*>(take(blocks * b.memory_bytes / static_cast<int64_t>(sizeof(A))));
    }
    return at;
  }

  size_t source_bytes() const {
    size_t most = 0;
    for (int j = 0; j < b.shape.source_count; ++j) {
      const SourceGradient<T>& own = gradients.at[j];
      const size_t pieces = 2 * most_atoms(own.cuts, own.width) * team.lanes * (vectors ? V : 1) * sizeof(A);
      const size_t tables =
          axis_integers(own.cuts, own.row_candidates) + axis_integers(own.cuts, own.column_candidates);
      const size_t bytes = strip_of(own.cuts, own.height) * sizeof(Readers<A>) + pieces + tables * sizeof(int);
      most = bytes > most ? bytes : most;
    }
    return most;
  }

  size_t table_bytes() const {
    int most = 0;
    for (int j = 0; j < b.shape.source_count; ++j) {
      const SourceGradient<T>& own = gradients.at[j];
      const int integers = axis_integers(own.cuts, own.row_candidates);
      most = integers > most ? integers : most;
    }
    return most * sizeof(int) + kThreads * (vectors ? V : 1) * sizeof(A);
  }

  Backward<T> b = {};
  SourceGradients<T> gradients = {};
  Team team;
  bool vectors = true;
  int source_columns = 0;
  int64_t blocks = 0, source_blocks = 0;
};

template <class T, int V>
void run(const Plan<T>& p, cudaStream_t stream) {
  const char* const name = "dense_pathway_backward";
  const PathwayShape& s = p.b.shape;
  launch(name, pathway_targets<T, V>, p.blocks, p.team.shape(), p.b.memory ? 0 : p.b.memory_bytes, stream, p.b,
         p.gradients, p.source_columns);
  if (s.source_count > 0) {
    launch(name, pathway_sources<T, V>, p.source_blocks, p.team.shape(), p.source_bytes(), stream, p.b, p.gradients);
  }
  const Team team = team_of(s.channels, V, 8, kThreads);
  launch(name, pathway_tables<T, V>, (s.source_count + 1) * s.images * team.chunks, team.shape(), p.table_bytes(),
         stream, p.b, p.gradients, team.chunks);
}

}  // namespace

int64_t dense_pathway_backward_scratch(const DensePathway& args) {
  int64_t count = 0;
  with_type(args.target.dtype, [&](auto element) { count = Plan<decltype(element)>(args).place(nullptr); });
  return count;
}

void dense_pathway_backward(const DensePathway& args, void* scratch, Stream stream) {
  with_type(args.target.dtype, [&](auto element) {
    typedef decltype(element) T;
    Plan<T> plan(args);
    plan.place(static_cast<Wide<T>*>(scratch));
    if (plan.vectors) return run<T, kFull<T>>(plan, cudaStream_t(stream));
    run<T, 1>(plan, cudaStream_t(stream));
  });
}

}  // namespace cuda
}  // namespace zigzag
