// dense_pathway forward that gathers region_stats of the map as it writes it, which saves reading the map once more.
//
// Blocks are those of region_stats: a row atom and a chunk of the channels, its workers a rectangle each. What is
// summed is the map as stored, rounded, in region_stats' order: the sums are those of region_stats, bit for bit.
#include "pathway_forward.cuh"
#include "stats.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPixels = 2;  // of a row that a thread takes at once

// The value that a map of T keeps.
template <class T, int V>
__device__ Vec<Wide<T>, V> as_stored(const Vec<Wide<T>, V>& v) {
  Pack<T, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) narrow(v.at[i], pack.at[i]);
  return widen<T, V>(pack);
}

struct Rectangle {
  int row, end_row, column, end_column;
};

// Writes a rectangle of the map; its sum and power. Rows are summed apart, as region_stats does.
template <class T, int V>
__device__ void write_rectangle(const Forward<T>& f, const Taps<Wide<T>>& taps, int stride, const Place& at,
                                const Rectangle& r, Vec<Wide<T>, V>& sum, Vec<Wide<T>, V>& power) {
  typedef Wide<T> A;
  for (int h = r.row; h < r.end_row; ++h) {
    Vec<A, V> row_sum = splat<A, V>(0), row_power = splat<A, V>(0);
    for (int w = r.column; w < r.end_column; w += kPixels) {
      const int count = r.end_column - w;
      Vec<A, V> joined[kPixels];
      join_sources<T, V, kPixels>(f, taps, {stride, f.shape.width + h - r.row, w}, count, at.image, at.channel, joined);
      write_pixels<T, V, kPixels>(f, at.image, h, w, count, at.channel, joined);
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        if (p >= count) break;
        const Vec<A, V> value = as_stored<T, V>(joined[p]);
        add(row_sum, value);
        add(row_power, value, value);
      }
    }
    add(sum, row_sum);
    add(power, row_power);
  }
}

// The taps of a row atom: of every source those of all columns, then those of the atom's rows.
template <class T>
__device__ void make_taps(const Forward<T>& f, const Taps<Wide<T>>& taps, int stride, const Place& at, int row,
                          int end_row) {
  const PathwayShape& s = f.shape;
  const int64_t height = s.sizes.rows(at.image), width = s.sizes.columns(at.image);
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < s.source_count * stride; i += blockDim.x * blockDim.y) {
    const Sizes& own = f.sources[i / stride].sizes;
    const int column = i % stride, h = row + column - s.width;
    if (column < width) {
      make_tap(taps, i, column, own.columns(at.image), width, s.grids, s.resize);
    } else if (column >= s.width && h < end_row) {
      make_tap(taps, i, h, own.rows(at.image), height, s.grids, s.resize);
    }
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 3)
    pathway_stats(const __grid_constant__ Forward<T> f, const __grid_constant__ StatsShape stats, int stride,
                  Wide<T>* lines, Wide<T>* powers) {
  typedef Wide<T> A;
  const PathwayShape& s = f.shape;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  unsigned char* const shared = shared_memory<unsigned char>();
  const Taps<A> taps = place_taps<A>(shared, s.source_count * stride, s.grids.count);
  const StatsMemory<A> memory =
      place_stats<A>(stats, blockDim.x * V, shared + taps_bytes<A>(s.source_count * stride, s.grids.count));
  const Axis &rows = memory.rows, &columns = memory.columns;
  const Place at = place_of<V>(stats, stats.most_rows);
  const bool inside = at.channel < s.channels;
  const int height = static_cast<int>(s.sizes.rows(at.image)), width = static_cast<int>(s.sizes.columns(at.image));
  for (int64_t h = height + at.row; inside && h < s.height; h += stats.most_rows) {
    for (int w = threadIdx.y; w < s.width; w += blockDim.y) write_nothing<T, V>(f, at.image, h, w, at.channel);
  }
  cut_axis(stats.cuts, height, thread, threads, rows);
  if (at.row >= rows.count()) return;
  cut_axis(stats.column_cuts, width, thread, threads, columns);
  const int row = rows.bounds[at.row], end_row = rows.bounds[at.row + 1];
  make_taps(f, taps, stride, at, row, end_row);
  __syncthreads();
  for (int i = threadIdx.y; inside && i < columns.count(); i += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0), power = splat<A, V>(0);
    const Rectangle r = {row, end_row, columns.bounds[i], columns.bounds[i + 1]};
    write_rectangle<T, V>(f, taps, stride, at, r, sum, power);
    memory.keep(i, sum, power);
  }
  for (int h = row; inside && h < end_row; ++h) {
    for (int w = width + threadIdx.y; w < s.width; w += blockDim.y) {
      write_nothing<T, V>(f, at.image, h, w, at.channel);
    }
  }
  __syncthreads();
  if (inside) write_lines<V>(stats, at, memory, lines, powers);
}

// Launches the kernel, unless the map is too wide for a block's share of memory or cannot be accessed 16 bytes at a
// time.
template <class T>
bool gather(const DensePathway& args, StatsShape stats, void* scratch, cudaStream_t stream) {
  constexpr int V = kFull<T>;
  if (!forward_packs<T>(args)) return false;
  const Forward<T> f = forward_of<T>(args);
  const int stride = f.shape.width + strip_of(stats.cuts, stats.height);
  const int64_t taps = taps_bytes<Wide<T>>(int64_t{f.shape.source_count} * stride, f.shape.grids.count);
  const Team team = team_of(stats.channels, V, 128 / (V * static_cast<int>(sizeof(T))), kThreads);
  const size_t bytes = taps + block_bytes<T>(stats, 2 * stats.most_columns, team.lanes * V);
  if (bytes > kThird) return false;
  stats.chunks = team.chunks;
  const StatsScratch<Wide<T>> to(stats, scratch);
  launch("dense_pathway_stats", pathway_stats<T, V>, stats.images * stats.most_rows * stats.chunks, team.shape(), bytes,
         stream, f, stats, stride, to.lines, to.powers);
  return true;
}

}  // namespace

void dense_pathway_stats(const DensePathway& args, const RegionStats& stats, void* scratch, Stream stream) {
  const StatsShape shape = shape_of(stats);
  with_type(args.target.dtype, [&](auto element) {
    if (gather<decltype(element)>(args, shape, scratch, cudaStream_t(stream))) {
      region_stats_lines(stats, shape, scratch, cudaStream_t(stream));
    } else {
      dense_pathway(args, stream);
      region_stats(stats, scratch, stream);
    }
  });
}

}  // namespace cuda
}  // namespace zigzag
