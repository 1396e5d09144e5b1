// dense_pathway forward. See zigzag/ops/dense_pathway.py for what it computes.
//
// One kernel writes the map (and the map plus the residual): a thread takes V channels of P neighbouring pixels of a
// row and goes through the sources, whose values it resizes where it needs them. The running products stay in
// registers.
#include "pathway_forward.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMostWorkers = 32;

// A block: one row of one image, a tile of its columns, a chunk of the channels.
template <class T, int V, int P>
__global__ void __launch_bounds__(kThreads, 3) pathway_forward(const __grid_constant__ Forward<T> f) {
  typedef Wide<T> A;
  const PathwayShape& s = f.shape;
  const int tile = blockDim.y * P, tiles = (s.width + tile - 1) / tile;
  int64_t rest = blockIdx.x / s.chunks;
  const int64_t channel = ((blockIdx.x % s.chunks) * blockDim.x + threadIdx.x) * V;
  const int begin = static_cast<int>(rest % tiles) * tile;
  rest /= tiles;
  const int h = static_cast<int>(rest % s.height);
  const int64_t image = rest / s.height;
  const int height = static_cast<int>(s.sizes.rows(image)), width = static_cast<int>(s.sizes.columns(image));
  const int entries = s.source_count * (tile + 1);
  const Taps<A> taps = place_taps<A>(shared_memory<unsigned char>(), entries, s.grids.count);
  const int first = threadIdx.y * P;
  if (h < height && begin < width) {
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < entries; i += blockDim.x * blockDim.y) {
      const Sizes& own = f.sources[i / (tile + 1)].sizes;
      const int column = i % (tile + 1);
      if (column == tile) {
        make_tap(taps, i, h, own.rows(image), height, s.grids, s.resize);
      } else if (begin + column < width) {
        make_tap(taps, i, begin + column, own.columns(image), width, s.grids, s.resize);
      }
    }
  }
  __syncthreads();
  if (channel >= s.channels) return;
  const int inside = h < height ? width - begin - first : 0;
  Vec<A, V> joined[P];
  join_sources<T, V, P>(f, taps, {tile + 1, tile, first}, inside, image, channel, joined);
  write_pixels<T, V, P>(f, image, h, begin + first, inside, channel, joined);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int w = begin + first + p;
    if (p >= inside && w < s.width) write_nothing<T, V>(f, image, h, w, channel);
  }
}

template <class T, int V, int P>
void run(Forward<T>& f, cudaStream_t stream) {
  PathwayShape& s = f.shape;
  Team team = team_of(s.channels, V, 32, kThreads);
  while (team.workers > kMostWorkers || (team.workers > 1 && (team.workers / 2) * P >= s.width)) team.workers /= 2;
  const auto bytes = [&] { return taps_bytes<Wide<T>>(s.source_count * (team.workers * P + 1), s.grids.count); };
  while (team.workers > 1 && bytes() > static_cast<int64_t>(kShared)) team.workers /= 2;
  s.chunks = team.chunks;
  const int64_t tile = team.workers * P;
  launch("dense_pathway", pathway_forward<T, V, P>, s.images * s.height * ceil_div(s.width, tile) * s.chunks,
         team.shape(), bytes(), stream, f);
}

// With so many threads a GPU is full, and each may take more pixels.
constexpr int64_t kFullGpu = int64_t{1} << 18;

template <class T>
void forward(const DensePathway& args, cudaStream_t stream) {
  constexpr int V = kFull<T>;
  Forward<T> f = forward_of<T>(args);
  if (!forward_packs<T>(args)) return run<T, 1, 1>(f, stream);
  const int64_t pixels = f.shape.images * f.shape.height * f.shape.width;
  if (pixels * f.shape.channels / V / 4 >= kFullGpu) return run<T, V, 4>(f, stream);
  run<T, V, 1>(f, stream);
}

}  // namespace

void dense_pathway(const DensePathway& args, Stream stream) {
  with_type(args.target.dtype, [&](auto element) { forward<decltype(element)>(args, cudaStream_t(stream)); });
}

}  // namespace cuda
}  // namespace zigzag
