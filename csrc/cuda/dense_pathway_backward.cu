// dense_pathway backward: gathers, recomputes the product and never divides.
//
// Let D^j be the gradient of source j resized, before its affine: the target's gradient times the gain and the other
// sources' values. Three launches (four for a padded batch, in which images may differ in which of the first does
// them):
//   pathway_walk      where one to three sources are no finer than the target: goes down parts of it, and gives the
//                     base's gradient and, for each part, D^j brought back to the source's pixels;
//   pathway_targets   elsewhere: goes over target rows: the base's gradient, D^j (of one row, in shared memory), and
//                     D^j brought back to the source's columns;
//   pathway_sources   goes over source rows: brings either back to them, which the affine's scale makes the source's
//                     gradient, and sums it over every cell's columns;
//   pathway_tables    adds up what codes, affines and gain get.
// Resizing has weights that sum to one, so the shift's gradient is the sum of the gathered values, and the scale's that
// of their products with the source and its codes.
#include "pathway_sources.cuh"
#include "pathway_targets.cuh"
#include "pathway_walk.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kBand = 4;    // target rows of a block
constexpr int kTall = 512;  // in maps of so many, whatever the batch: an image's sums are the same in any
constexpr int64_t kManyBlocks = 2048;

// --- tables ---------------------------------------------------------------------------------------------------------

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
__global__ void __launch_bounds__(kPathwayThreads, 3)
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
  const int64_t parts =
      int64_t{parts_of(s.sizes.rows(image), kWalkRows).count} * parts_of(s.sizes.columns(image), kWalkColumns).count;
  const A* const from = b.bands + (image * b.most_sums * 3 + threadIdx.y) * s.channels + channel;
  store(tables[threadIdx.y] + image * s.channels + channel,
        sum_atoms<V>(from, walks(b, image) ? parts : b.most_bands, 3 * s.channels));
}

// --- launches -------------------------------------------------------------------------------------------------------

// What the launches of one call have in common: shapes, and where everything lies in scratch.
template <class T>
struct Plan {
  typedef Wide<T> A;

  explicit Plan(const DensePathway& args) {
    vectors = packs(args.base, V, sizeof(T)) && packs(args.grad, V, sizeof(T)) && packs(args.grad_sum, V, sizeof(T)) &&
              packs(args.grad_base, V, sizeof(T)) && args.target.c % V == 0 && tables_aligned(args);
    b.shape = pathway_shape(args);
    const PathwayShape& s = b.shape;
    b.base = view<const T>(args.base), b.grad = view<const T>(args.grad), b.grad_sum = view<const T>(args.grad_sum);
    b.grad_base = view<T>(args.grad_base);
    b.base_scale = static_cast<const A*>(args.base_scale), b.base_shift = static_cast<const A*>(args.base_shift);
    b.gain = static_cast<const A*>(args.gain);
    b.grad_base_scale = static_cast<A*>(args.grad_base_scale);
    b.grad_base_shift = static_cast<A*>(args.grad_base_shift);
    b.grad_gain = static_cast<A*>(args.grad_gain);
    bool padded = args.valid, coarser = true;
    for (int j = 0; j < s.source_count; ++j) {
      add_source(args.sources[j], j);
      padded = padded || args.sources[j].valid;
      coarser = coarser && args.sources[j].map.h <= s.height && args.sources[j].map.w <= s.width;
    }
    // Images walk by their own sizes, which the GPU alone may know: then both kernels look for theirs.
    const bool walk = vectors && s.source_count > 0 && s.source_count <= kMostWalked && (padded || coarser) &&
                      s.grids.cells * s.channels < int64_t{1} << 31;
    targets = padded || !walk;
    team = team_for(s.channels);
    if (walk) plan_walk();
    b.shape.chunks = team.chunks;
    b.band = s.height >= kTall ? kBand : 1;
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

  void plan_walk() {
    walk_team = team_of(b.shape.channels, V, kWalkLanes, kWalkThreads);
    walk_team.workers = b.shape.width < kWalkColumns ? b.shape.width : kWalkColumns;
    b.walk_chunks = walk_team.chunks;
    walk_parts = parts_of(b.shape.height, kWalkRows).count * int64_t{parts_of(b.shape.width, kWalkColumns).count};
  }

  // As many lanes as leave room for two blocks (for one of pathway_sources), up to 128 bytes of every pixel.
  Team team_for(int64_t channels) const {
    const int vector = vectors ? V : 1;
    int lanes = vectors ? 8 : 32;
    while (lanes > 1 && ((targets && rows_bytes<A>(b.shape, source_columns, lanes * vector) > int64_t{kShared} / 2) ||
                         source_bytes(lanes * vector) > kShared)) {
      lanes /= 2;
    }
    return team_of(channels, vector, lanes, kPathwayThreads);
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
    b.most_sums = targets && b.most_bands > walk_parts ? b.most_bands : static_cast<int>(walk_parts);
    b.bands = take(s.images * b.most_sums * 3 * s.channels);
    int64_t block = 0;
    for (int j = 0; j < s.source_count; ++j) {
      SourceGradient<T>& own = gradients.at[j];
      own.pitch = own.width + 2 * (parts_of(s.width, kWalkColumns).count - 1);
      const int64_t walked = own.pitch * int64_t{own.height + 2 * (parts_of(s.height, kWalkRows).count - 1)};
      const int64_t rows = targets ? s.height * int64_t{own.width} : 0;
      own.plane = b.walk_chunks > 0 && walked > rows ? walked : rows;
      own.columns = take(s.images * own.plane * s.channels);
      own.lines = take(s.images * own.most_rows * own.cuts.lines() * s.channels);
      own.products = take(s.images * own.most_rows * s.channels);
      own.first_block = block;
      block += s.images * own.most_rows * s.chunks;
    }
    source_blocks = block;
    b.memory = nullptr;
    if (targets && b.memory_bytes > static_cast<int64_t>(kShared)) {
      b.memory = reinterpret_cast<unsigned char*>(take(blocks * b.memory_bytes / static_cast<int64_t>(sizeof(A))));
    }
    return at;
  }

  // What a block of pathway_sources takes for so many channels.
  size_t source_bytes(int channels) const {
    size_t most = 0;
    for (int j = 0; j < b.shape.source_count; ++j) {
      const SourceGradient<T>& own = gradients.at[j];
      const size_t pieces = 2 * most_atoms(own.cuts, own.width) * channels * sizeof(A);
      const size_t tables = axis_integers(own.cuts, own.row_candidates) +
                            axis_integers(own.cuts, own.column_candidates) +
                            share_integers(b.shape.height, b.shape.width);
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
    return most * sizeof(int) + kPathwayThreads * (vectors ? V : 1) * sizeof(A);
  }

  Backward<T> b = {};
  SourceGradients<T> gradients = {};
  Team team, walk_team = {};
  bool vectors = true, targets = true;  // targets: whether pathway_targets is launched
  int source_columns = 0;
  int64_t blocks = 0, source_blocks = 0, walk_parts = 0;
};

template <class T, int K>
void launch_walk(const char* name, const Plan<T>& p, cudaStream_t stream) {
  const PathwayShape& s = p.b.shape;
  constexpr int V = kFull<T>;
  const size_t bytes = walk_bytes<Wide<T>, V, K>(s.grids.count);
  launch(name, pathway_walk<T, V, K>, s.images * p.walk_parts * p.walk_team.chunks, p.walk_team.shape(), bytes, stream,
         p.b, p.gradients);
}

template <class T, int V>
void run(const Plan<T>& p, cudaStream_t stream) {
  const char* const name = "dense_pathway_backward";
  const PathwayShape& s = p.b.shape;
  if (p.b.walk_chunks > 0) {
    if (s.source_count == 1) launch_walk<T, 1>(name, p, stream);
    if (s.source_count == 2) launch_walk<T, 2>(name, p, stream);
    if (s.source_count == 3) launch_walk<T, 3>(name, p, stream);
  }
  if (p.targets) {
    launch(name, pathway_targets<T, V>, p.blocks, p.team.shape(), p.b.memory ? 0 : p.b.memory_bytes, stream, p.b,
           p.gradients, p.source_columns);
  }
  if (s.source_count > 0) {
    launch(name, pathway_sources<T, V>, p.source_blocks, p.team.shape(), p.source_bytes(p.team.lanes * V), stream, p.b,
           p.gradients);
  }
  const Team team = team_of(s.channels, V, 8, kPathwayThreads);
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
