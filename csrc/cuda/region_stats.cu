// region_stats, forward and backward. See zigzag/ops/region_stats.py for what it computes.
//
// Forward: the map is cut into rectangles of row atoms x column atoms. stats_rows reads each pixel once: a block takes
// one row atom and a chunk of the channels, its workers a rectangle each, and what it writes are the sums of all column
// lines in that row atom. stats_lines adds those up along the rows. Every sum has one order, whatever the launch.
// Backward is the adjoint: one value per rectangle, from the lines that hold it, added to every pixel in it.
#include "stats.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBatch = 4;  // pixels whose loads are in flight at once

// Sum and power of a rectangle. Rows are summed apart, which keeps float32 sums short.
template <class T, int V>
__device__ void sum_rectangle(const MapOf<const T>& x, const Place& at, int row, int end_row, int column,
                              int end_column, Vec<Wide<T>, V>& sum, Vec<Wide<T>, V>& power) {
  typedef Wide<T> A;
  for (int h = row; h < end_row; ++h) {
    const T* pixel = x.pixel(at.image, h, column, at.channel);
    Vec<A, V> row_sum = splat<A, V>(0), row_power = splat<A, V>(0);
    int w = column;
    for (; w + kBatch <= end_column; w += kBatch, pixel += kBatch * x.sw) {
      Pack<T, V> batch[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) batch[i] = fetch<T, V>(pixel + i * x.sw);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const Vec<A, V> value = widen<T, V>(batch[i]);
        add(row_sum, value);
        add(row_power, value, value);
      }
    }
    for (; w < end_column; ++w, pixel += x.sw) {
      const Vec<A, V> value = load<V>(pixel);
      add(row_sum, value);
      add(row_power, value, value);
    }
    add(sum, row_sum);
    add(power, row_power);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    stats_rows(MapOf<const T> x, StatsShape s, Wide<T>* lines, Wide<T>* powers) {
  typedef Wide<T> A;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const StatsMemory<A> memory = place_stats<A>(s, blockDim.x * V, shared_memory<unsigned char>());
  const Axis &rows = memory.rows, &columns = memory.columns;
  const Place at = place_of<V>(s, s.most_rows);
  cut_axis(s.cuts, s.sizes.rows(at.image), thread, threads, rows);
  if (at.row >= rows.count()) return;
  cut_axis(s.column_cuts, s.sizes.columns(at.image), thread, threads, columns);
  const bool inside = at.channel < s.channels;
  for (int i = threadIdx.y; inside && i < columns.count(); i += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0), power = splat<A, V>(0);
    sum_rectangle<T, V>(x, at, rows.bounds[at.row], rows.bounds[at.row + 1], columns.bounds[i], columns.bounds[i + 1],
                        sum, power);
    memory.keep(i, sum, power);
  }
  __syncthreads();
  if (inside) write_lines<V>(s, at, memory, lines, powers);
}

// One (grid, row of cells) of one image; the row after the last takes the power. From lines along a row atom to sums.
template <class A, int V>
__global__ void __launch_bounds__(kThreads, 2)
    stats_lines(StatsShape s, const A* lines, const A* powers, A* sums, A* power) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const Axis rows = place_axis(s.cuts, s.row_integers, shared_memory<int>());
  const Place at = place_of<V>(s, s.cuts.grids.lines + 1);
  cut_axis(s.cuts, s.sizes.rows(at.image), thread, threads, rows);
  if (at.channel >= s.channels) return;
  const int taps = s.cuts.taps(), all_lines = s.cuts.lines();
  if (at.row == s.cuts.grids.lines) {
    if (threadIdx.y != 0) return;
    const A* const from = powers + at.image * s.most_rows * s.channels + at.channel;
    store(power + at.image * s.channels + at.channel, sum_atoms<V>(from, rows.count(), s.channels));
    return;
  }
  int g = 0;
  while (g + 1 < s.cuts.grids.count && at.row >= s.cuts.grids.first_line[g + 1]) ++g;
  const int grid = s.cuts.grids.size[g], y = static_cast<int>(at.row) - s.cuts.grids.first_line[g];
  const int* const low = rows.low + at.row * taps;
  const int* const high = rows.high + at.row * taps;
  // What the taps share is summed once; where they share nothing, that is nothing.
  int core_low = low[0], core_high = high[0];
  for (int a = 1; a < taps; ++a) {
    core_low = low[a] > core_low ? low[a] : core_low;
    core_high = high[a] < core_high ? high[a] : core_high;
  }
  if (core_high < core_low) core_high = core_low;
  for (int item = threadIdx.y; item < grid * taps; item += blockDim.y) {
    const int64_t line = s.cuts.grids.first_line[g] * taps + item;
    const A* const from = lines + (at.image * s.most_rows * all_lines + line) * s.channels + at.channel;
    const int64_t step = all_lines * s.channels;
    Vec<A, V> core = splat<A, V>(0);
    for (int r = core_low; r < core_high; ++r) add(core, load<V>(from + r * step));
    const int64_t cell = s.cuts.grids.first_cell[g] + y * grid + item / taps;
    for (int a = 0; a < taps; ++a) {
      Vec<A, V> sum = core;
      const int before = core_low < core_high ? core_low : high[a];
      for (int r = low[a]; r < before; ++r) add(sum, load<V>(from + r * step));
      for (int r = core_high; core_low < core_high && r < high[a]; ++r) add(sum, load<V>(from + r * step));
      const int64_t entry = (cell * taps + a) * taps + item % taps;
      store(sums + (at.image * s.entries + entry) * s.channels + at.channel, sum);
    }
  }
}

// The cell that holds row h under a tap, or -1: it is added to the sum of the cell that holds h - tap + halo.
__device__ int holder(int h, int64_t size, int grid, int tap, int halo) {
  const int from = h - tap + halo;
  return from < 0 || from >= size ? -1 : static_cast<int>(cell_of(from, size, grid));
}

// The gradient of every column line in one row atom, the taps of its row summed.
template <class A, int V>
__device__ void gather_lines(const StatsShape& s, const Place& at, int row, const A* grad_sums, A* to) {
  const int taps = s.cuts.taps();
  const int64_t height = s.sizes.rows(at.image);
  for (int g = 0; g < s.cuts.grids.count; ++g) {
    const int grid = s.cuts.grids.size[g], first = s.cuts.grids.first_line[g] * taps;
    for (int item = threadIdx.y; item < grid * taps; item += blockDim.y) {
      Vec<A, V> sum = splat<A, V>(0);
      for (int a = 0; a < taps; ++a) {
        const int y = holder(row, height, grid, a, s.cuts.halo);
        if (y < 0) continue;
        const int64_t cell = s.cuts.grids.first_cell[g] + y * grid + item / taps;
        const int64_t entry = (cell * taps + a) * taps + item % taps;
        add(sum, load<V>(grad_sums + (at.image * s.entries + entry) * s.channels + at.channel));
      }
      store(to + (first + item) * static_cast<int>(blockDim.x) * V + threadIdx.x * V, sum);
    }
  }
}

// The gradient that all pixels of a rectangle share: that of all lines that hold its columns.
template <class A, int V>
__device__ Vec<A, V> gather_piece(const StatsShape& s, int column, int64_t width, const A* lines) {
  const int taps = s.cuts.taps(), length = blockDim.x * V;
  Vec<A, V> sum = splat<A, V>(0);
  for (int g = 0; g < s.cuts.grids.count; ++g) {
    for (int b = 0; b < taps; ++b) {
      const int x = holder(column, width, s.cuts.grids.size[g], b, s.cuts.halo);
      if (x < 0) continue;
      const int line = (s.cuts.grids.first_line[g] + x) * taps + b;
      add(sum, load<V>(lines + line * length + threadIdx.x * V));
    }
  }
  return sum;
}

// What others gave was rounded to T already: a sum that hardly differs from it would be rounded back to it.
template <class T, class A, int V>
__device__ __forceinline__ void dither(Vec<A, V>& v, int64_t h, int64_t w, int64_t channel) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < V; ++i) v.at[i] = dithered_for(T(), v.at[i], dither_phase(h, w, channel + i));
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 2)
    stats_backward(MapOf<const T> x, MapOf<const T> others, MapOf<T> grad_x, StatsShape s, const Wide<T>* grad_sums,
                   const Wide<T>* grad_power) {
  typedef Wide<T> A;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  A* const lines = shared_memory<A>();  // [line][lane]
  int* const tables = reinterpret_cast<int*>(lines + s.cuts.lines() * static_cast<int>(blockDim.x) * V);
  const Axis rows = place_axis(s.cuts, s.row_integers, tables);
  const Axis columns = place_axis(s.cuts, s.column_integers, tables + axis_integers(s.cuts, s.row_integers));
  const Place at = place_of<V>(s, s.most_rows);
  const bool inside = at.channel < s.channels;
  const int height = static_cast<int>(s.sizes.rows(at.image)), width = static_cast<int>(s.sizes.columns(at.image));
  const auto rest = [&](int64_t h, int w) {
    return others.data ? load<V>(others.pixel(at.image, h, w, at.channel)) : splat<A, V>(0);
  };
  for (int64_t h = height + at.row; inside && h < s.height; h += s.most_rows) {
    for (int w = threadIdx.y; w < s.width; w += blockDim.y) {
      write(grad_x.pixel(at.image, h, w, at.channel), rest(h, w));
    }
  }
  cut_axis(s.cuts, height, thread, threads, rows);
  if (at.row >= rows.count()) return;
  cut_axis(s.column_cuts, width, thread, threads, columns);
  if (inside) gather_lines<A, V>(s, at, rows.bounds[at.row], grad_sums, lines);
  __syncthreads();
  if (!inside) return;
  Vec<A, V> twice = load<V>(grad_power + at.image * s.channels + at.channel);
  add(twice, twice);
  const int first = rows.bounds[at.row], end = rows.bounds[at.row + 1];
  for (int i = threadIdx.y; i < columns.count(); i += blockDim.y) {
    const Vec<A, V> piece = gather_piece<A, V>(s, columns.bounds[i], width, lines);
    for (int h = first; h < end; ++h) {
      const T* from = x.pixel(at.image, h, columns.bounds[i], at.channel);
      T* to = grad_x.pixel(at.image, h, columns.bounds[i], at.channel);
#pragma unroll 4
      for (int w = columns.bounds[i]; w < columns.bounds[i + 1]; ++w, from += x.sw, to += grad_x.sw) {
        Vec<A, V> grad = piece;
        add(grad, twice, load<V>(from));
        if (others.data) {
          add(grad, rest(h, w));
          dither<T>(grad, h, w, at.channel);
        }
        write(to, grad);
      }
    }
  }
  for (int h = first; h < end; ++h) {
    for (int w = width + threadIdx.y; w < s.width; w += blockDim.y) {
      write(grad_x.pixel(at.image, h, w, at.channel), rest(h, w));
    }
  }
}

// 128 bytes of a pixel side by side, fewer where shared memory is too small for them.
template <class T, int V>
Team team_for(const StatsShape& s, int64_t values) {
  int lanes = 128 / (V * static_cast<int>(sizeof(T))) < 32 ? 128 / (V * static_cast<int>(sizeof(T))) : 32;
  while (lanes > 1 && block_bytes<T>(s, values, lanes * V) > kShared) lanes /= 2;
  return team_of(s.channels, V, lanes, kThreads);
}

template <class T, int V>
void forward(const RegionStats& args, StatsShape s, void* scratch, cudaStream_t stream) {
  const StatsScratch<Wide<T>> to(s, scratch);
  const int64_t pieces = 2 * s.most_columns;
  const Team team = team_for<T, V>(s, pieces);
  s.chunks = team.chunks;
  launch("region_stats", stats_rows<T, V>, s.images * s.most_rows * s.chunks, team.shape(),
         block_bytes<T>(s, pieces, team.lanes * V), stream, view<const T>(args.x), s, to.lines, to.powers);
  region_stats_lines(args, s, scratch, stream);
}

template <class A, int V>
void sum_lines_of_rows(const RegionStats& args, StatsShape s, void* scratch, cudaStream_t stream) {
  const StatsScratch<A> from(s, scratch);
  const Team team = team_of(s.channels, V, 32, kThreads);
  s.chunks = team.chunks;
  launch("region_stats", stats_lines<A, V>, s.images * (s.cuts.grids.lines + 1) * s.chunks, team.shape(),
         axis_integers(s.cuts, s.row_integers) * sizeof(int), stream, s, static_cast<const A*>(from.lines),
         static_cast<const A*>(from.powers), static_cast<A*>(args.sums), static_cast<A*>(args.power));
}

template <class T, int V>
void backward(const RegionStats& args, StatsShape s, cudaStream_t stream) {
  typedef Wide<T> A;
  const Team team = team_for<T, V>(s, s.cuts.lines());
  s.chunks = team.chunks;
  launch("region_stats_backward", stats_backward<T, V>, s.images * s.most_rows * s.chunks, team.shape(),
         block_bytes<T>(s, s.cuts.lines(), team.lanes * V), stream, view<const T>(args.x), view<const T>(args.others),
         view<T>(args.grad_x), s, static_cast<const A*>(args.sums), static_cast<const A*>(args.power));
}

}  // namespace

void region_stats_lines(const RegionStats& args, const StatsShape& s, void* scratch, cudaStream_t stream) {
  with_type(args.x.dtype, [&](auto element) {
    typedef Wide<decltype(element)> A;
    if (s.channels % kFull<A> == 0) return sum_lines_of_rows<A, kFull<A>>(args, s, scratch, stream);
    sum_lines_of_rows<A, 1>(args, s, scratch, stream);
  });
}

int64_t region_stats_entries(const RegionStats& args) { return shape_of(args).entries; }

int64_t region_stats_scratch(const RegionStats& args) {
  const StatsShape s = shape_of(args);
  return s.images * s.most_rows * (s.cuts.lines() + 1) * s.channels;
}

void region_stats(const RegionStats& args, void* scratch, Stream stream) {
  const StatsShape s = shape_of(args);
  with_type(args.x.dtype, [&](auto element) {
    typedef decltype(element) T;
    if (packs(args.x, kFull<T>, sizeof(T))) return forward<T, kFull<T>>(args, s, scratch, cudaStream_t(stream));
    forward<T, 1>(args, s, scratch, cudaStream_t(stream));
  });
}

void region_stats_backward(const RegionStats& args, Stream stream) {
  const StatsShape s = shape_of(args);
  with_type(args.x.dtype, [&](auto element) {
    typedef decltype(element) T;
    const bool vectors = packs(args.x, kFull<T>, sizeof(T)) && packs(args.others, kFull<T>, sizeof(T)) &&
                         packs(args.grad_x, kFull<T>, sizeof(T)) && aligned(args.sums) && aligned(args.power);
    if (vectors) return backward<T, kFull<T>>(args, s, cudaStream_t(stream));
    backward<T, 1>(args, s, cudaStream_t(stream));
  });
}

}  // namespace cuda
}  // namespace zigzag
