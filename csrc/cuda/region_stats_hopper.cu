// region_stats forward with bulk copies: what stats_rows does, sum for sum in the same order, from rows of pixels that
// are fetched into shared memory ahead of their use. There a worker has as many loads in flight as its column atom has
// pixels, one or two mostly; here a block has rows, whatever its atoms are.
#include "bulk.cuh"
#include "stats.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLine = 128;  // bytes of a pixel that a block takes
constexpr int kBox = 256;   // pixels of a copy at most
constexpr int kStages = 4;  // rows on their way at most

// How rows come: in `boxes` copies of `box` pixels, `stages` rows at once.
struct RowCopies {
  int box, boxes, stages;

  __host__ __device__ int bytes() const { return boxes * box * kLine; }
  __host__ __device__ int ring() const { return stages * bytes(); }
};

// One thread has a row fetched, as far as its image goes.
__device__ __forceinline__ void fetch_row(const TileMap& map, const RowCopies& copies, const Place& at, int row,
                                          int width, unsigned char* to, Arrival* arrival) {
  const int boxes = (width + copies.box - 1) / copies.box;
  expect(arrival, boxes * copies.box * kLine);
  for (int i = 0; i < boxes; ++i) {
    copy_tile(to + i * copies.box * kLine, map, static_cast<int>(at.channel), i * copies.box, row,
              static_cast<int>(at.image), arrival);
  }
}

// Adds one row of every column atom to what the rows before it came to.
template <class T, int V>
__device__ __forceinline__ void sum_row(const StatsMemory<Wide<T>>& memory, const T* pixels, bool first) {
  typedef Wide<T> A;
  for (int i = threadIdx.y; i < memory.columns.count(); i += blockDim.y) {
    Vec<A, V> sum = splat<A, V>(0), power = splat<A, V>(0);
    for (int w = memory.columns.bounds[i]; w < memory.columns.bounds[i + 1]; ++w) {
      const Vec<A, V> value = load<V>(pixels + w * (kLine / static_cast<int>(sizeof(T))) + threadIdx.x * V);
      add(sum, value);
      add(power, value, value);
    }
    memory.add_up(i, sum, power, first);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 3) stats_rows_bulk(const __grid_constant__ TileMap map, StatsShape s,
                                                               RowCopies copies, Wide<T>* lines, Wide<T>* powers) {
  typedef Wide<T> A;
  constexpr int V = kFull<T>;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  unsigned char* const ring = aligned_to(kTileAlignment, shared_memory<unsigned char>());
  Arrival* const arrivals = reinterpret_cast<Arrival*>(ring + copies.ring());
  const StatsMemory<A> memory = place_stats<A>(s, blockDim.x * V, reinterpret_cast<unsigned char*>(arrivals + kStages));
  const Place at = place_of<V>(s, s.most_rows);
  const int width = static_cast<int>(s.sizes.columns(at.image));
  cut_axis(s.cuts, s.sizes.rows(at.image), thread, threads, memory.rows);
  if (at.row >= memory.rows.count()) return;
  const int first = memory.rows.bounds[at.row], end = memory.rows.bounds[at.row + 1];
  const auto fetch = [&](int row) {
    const int stage = (row - first) % copies.stages;
    fetch_row(map, copies, at, row, width, ring + stage * copies.bytes(), arrivals + stage);
  };
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) prepare(arrivals + i);
    publish();
    for (int row = first; row < end && row < first + copies.stages; ++row) fetch(row);
  }
  cut_axis(s.column_cuts, width, thread, threads, memory.columns);  // ends with a barrier
  for (int row = first; row < end; ++row) {
    const int turn = (row - first) / copies.stages, stage = (row - first) % copies.stages;
    await(arrivals + stage, turn % 2);
    sum_row<T, V>(memory, reinterpret_cast<const T*>(ring + stage * copies.bytes()), row == first);
    if (row + copies.stages >= end) continue;
    __syncthreads();  // all have read what the next row overwrites
    if (thread == 0) fetch(row + copies.stages);
  }
  __syncthreads();
  write_lines<V>(s, at, memory, lines, powers);
}

// Strides that are those of a whole map: a dimension of one has any.
template <class T>
bool tiles(const Map& x, int64_t (&strides)[3]) {
  const int64_t sw = x.w > 1 ? x.sw : x.c, sh = x.h > 1 ? x.sh : x.w * sw, sn = x.n > 1 ? x.sn : x.h * sh;
  strides[0] = sw * sizeof(T), strides[1] = sh * sizeof(T), strides[2] = sn * sizeof(T);
  const bool nested = sw % x.c == 0 && sw > 0 && sh % sw == 0 && sh >= x.w * sw && sn % sh == 0 && sn >= x.h * sh;
  return x.n > 0 && x.w * kLine <= static_cast<int64_t>(kShared) && nested && packs(x, kFull<T>, sizeof(T)) &&
         x.c * sizeof(T) % kLine == 0;
}

template <class T>
size_t bulk_bytes(const StatsShape& s, const RowCopies& copies) {
  return kTileAlignment + copies.ring() + kStages * sizeof(Arrival) +
         block_bytes<T>(s, 2 * s.most_columns, kLine / sizeof(T));
}

// As many rows at once as leave room for three blocks, two at least.
template <class T>
RowCopies copies_of(const StatsShape& s) {
  const int boxes = static_cast<int>(ceil_div(s.width, kBox));
  RowCopies copies = {static_cast<int>(ceil_div(s.width, boxes)), boxes, kStages};
  while (copies.stages > 2 && bulk_bytes<T>(s, copies) > kThird) --copies.stages;
  return copies;
}

// False where bulk copies do not take the map.
template <class T>
bool forward(const RegionStats& args, StatsShape s, void* scratch, cudaStream_t stream) {
  int64_t strides[3];
  if (!tiles<T>(args.x, strides) || !has_bulk_copies("region_stats")) return false;
  const RowCopies copies = copies_of<T>(s);
  if (bulk_bytes<T>(s, copies) > kShared) return false;
  constexpr int lanes = kLine / 16, element = sizeof(T);
  s.chunks = s.channels * element / kLine;
  const TileMap map = tile_map("region_stats", args.x.data, {s.channels * element, s.width, s.height, s.images},
                               strides, kLine, copies.box, element);
  const StatsScratch<Wide<T>> to(s, scratch);
  launch("region_stats", stats_rows_bulk<T>, s.images * s.most_rows * s.chunks, dim3{lanes, kThreads / lanes, 1},
         bulk_bytes<T>(s, copies), stream, map, s, copies, to.lines, to.powers);
  region_stats_lines(args, s, scratch, stream);
  return true;
}

}  // namespace

void region_stats_hopper(const RegionStats& args, void* scratch, Stream stream) {
  const StatsShape s = shape_of(args);
  bool done = false;
  with_type(args.x.dtype,
            [&](auto element) { done = forward<decltype(element)>(args, s, scratch, cudaStream_t(stream)); });
  if (!done) region_stats(args, scratch, stream);
}

}  // namespace cuda
}  // namespace zigzag
