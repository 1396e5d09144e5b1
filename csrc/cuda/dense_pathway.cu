// dense_pathway forward. See zigzag/ops/dense_pathway.py for what it computes.
//
// One kernel writes the map (and the map plus the residual): a thread takes V channels of P neighbouring pixels of a
// row and goes through the sources, whose values it resizes where it needs them. The running products stay in
// registers.
#include "pathway.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMostWorkers = 32;

template <class T>
struct Forward {
  typedef Wide<T> A;
  PathwayShape shape;
  MapOf<const T> base, residual;
  MapOf<T> output, output_sum;
  const A *base_scale, *base_shift, *gain;
  Source<T> sources[kMostSources];
};

// All sources at P neighbouring pixels, joined.
template <class T, int V, int P>
__device__ void join_sources(const Forward<T>& f, const Taps<Wide<T>>& taps, int tile, int first, int count,
                             int64_t image, int64_t channel, Vec<Wide<T>, V> (&joined)[P]) {
  typedef Wide<T> A;
  const PathwayShape& s = f.shape;
#pragma unroll
  for (int p = 0; p < P; ++p) joined[p] = splat<A, V>(s.product ? 1 : 0);
  for (int j = 0; j < s.source_count; ++j) {
    const Source<T>& source = f.sources[j];
    const int row = j * (tile + 1) + tile;
    const A* const codes = source.codes ? source.codes + image * s.grids.cells * s.channels + channel : nullptr;
    int atom = -1;
    Vec<A, V> code = splat<A, V>(0);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (p >= count) break;
      const int column = j * (tile + 1) + first + p;
      Vec<A, V> value = mix_pixels<T, V>(source.map, image, channel, taps.tap[row], taps.tap[column]);
      if (codes && (atom < 0 || taps.tap[column].atom != atom)) {
        atom = taps.tap[column].atom;
        code = mix_codes<A, V>(codes, s.channels, s.grids, taps, row, column, source.sizes.rows(image),
                               source.sizes.columns(image));
      }
      add(value, code);
      apply_affine(value, source.scale, source.shift, image * s.channels + channel);
      if (s.product) {
        multiply(joined[p], value);
      } else {
        add(joined[p], value);
      }
    }
  }
}

template <class T, int V>
__device__ void write_pixel(const Forward<T>& f, int64_t image, int h, int w, int64_t channel,
                            const Vec<Wide<T>, V>& joined) {
  typedef Wide<T> A;
  const PathwayShape& s = f.shape;
  Vec<A, V> value = load<V>(f.base.pixel(image, h, w, channel));
  apply_affine(value, f.base_scale, f.base_shift, image * s.channels + channel);
#pragma unroll
  for (int i = 0; i < V; ++i) value.at[i] = s.relu && value.at[i] < 0 ? 0 : value.at[i];
  if (s.source_count > 0) {
    if (f.gain) {
      add(value, load<V>(f.gain + channel), joined);
    } else {
      add(value, joined);
    }
  }
  store(f.output.pixel(image, h, w, channel), value);
  if (!f.residual.data) return;
  add(value, load<V>(f.residual.pixel(image, h, w, channel)));
  store(f.output_sum.pixel(image, h, w, channel), value);
}

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
  join_sources<T, V, P>(f, taps, tile, first, inside, image, channel, joined);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int w = begin + first + p;
    if (p < inside) {
      write_pixel<T, V>(f, image, h, w, channel, joined[p]);
    } else if (w < s.width) {
      store(f.output.pixel(image, h, w, channel), splat<A, V>(0));
      if (f.residual.data) store(f.output_sum.pixel(image, h, w, channel), splat<A, V>(0));
    }
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
  typedef Wide<T> A;
  constexpr int V = kFull<T>;
  Forward<T> f = {pathway_shape(args),
                  view<const T>(args.base),
                  view<const T>(args.residual),
                  view<T>(args.output),
                  view<T>(args.output_sum),
                  static_cast<const A*>(args.base_scale),
                  static_cast<const A*>(args.base_shift),
                  static_cast<const A*>(args.gain),
                  {}};
  bool vectors = tables_aligned(args);
  for (const Map* map : {&args.base, &args.residual, &args.output, &args.output_sum}) {
    vectors = vectors && packs(*map, V, sizeof(T));
  }
  for (size_t j = 0; j < args.sources.size(); ++j) {
    f.sources[j] = source_of<T>(args.sources[j]);
    vectors = vectors && packs(args.sources[j].map, V, sizeof(T));
  }
  const int64_t pixels = f.shape.images * f.shape.height * f.shape.width;
  if (!vectors) return run<T, 1, 1>(f, stream);
  if (pixels * f.shape.channels / V / 4 >= kFullGpu) return run<T, V, 4>(f, stream);
  run<T, V, 1>(f, stream);
}

}  // namespace

void dense_pathway(const DensePathway& args, Stream stream) {
  with_type(args.target.dtype, [&](auto element) { forward<decltype(element)>(args, cudaStream_t(stream)); });
}

}  // namespace cuda
}  // namespace zigzag
