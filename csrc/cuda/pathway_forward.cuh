// What dense_pathway's forward kernels share: all sources joined at neighbouring pixels, and what is written there.
#pragma once

#include "pathway.cuh"

namespace zigzag {
namespace cuda {

template <class T>
struct Forward {
  typedef Wide<T> A;
  PathwayShape shape;
  MapOf<const T> base, residual;
  MapOf<T> output, output_sum;
  const A *base_scale, *base_shift, *gain;
  Source<T> sources[kMostSources];
};

// Where the taps of a pixel lie: every source has `stride` of them, those of a row of pixels side by side.
struct TapIndex {
  int stride, row, column;
};

// All sources at P neighbouring pixels, joined.
template <class T, int V, int P>
__device__ void join_sources(const Forward<T>& f, const Taps<Wide<T>>& taps, TapIndex at, int count, int64_t image,
                             int64_t channel, Vec<Wide<T>, V> (&joined)[P]) {
  typedef Wide<T> A;
  const PathwayShape& s = f.shape;
#pragma unroll
  for (int p = 0; p < P; ++p) joined[p] = splat<A, V>(s.product ? 1 : 0);
  for (int j = 0; j < s.source_count; ++j) {
    const Source<T>& source = f.sources[j];
    const int row = j * at.stride + at.row;
    const A* const codes = source.codes ? source.codes + image * s.grids.cells * s.channels + channel : nullptr;
    int atom = -1;
    Vec<A, V> code = splat<A, V>(0);
#pragma unroll
    for (int p = 0; p < P; ++p) {
      if (p >= count) break;
      const int column = j * at.stride + at.column + p;
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

// Writes what `count` neighbouring pixels get, from their joined sources, which it takes the place of.
// All loads stand before the first store: for all that the compiler knows, a store may change what is loaded after it.
template <class T, int V, int P>
__device__ void write_pixels(const Forward<T>& f, int64_t image, int64_t h, int w, int count, int64_t channel,
                             Vec<Wide<T>, V> (&values)[P]) {
  typedef Wide<T> A;
  const PathwayShape& s = f.shape;
  const int64_t row = image * s.channels + channel;
  Pack<T, V> base[P] = {}, residual[P] = {};
#pragma unroll
  for (int p = 0; p < P; ++p) {
    if (p >= count) break;
    base[p] = fetch<T, V>(f.base.pixel(image, h, w + p, channel));
    if (f.residual.data) residual[p] = fetch<T, V>(f.residual.pixel(image, h, w + p, channel));
  }
  Vec<A, V> scale = {}, shift = {}, gain = {};
  if (f.base_scale) scale = load<V>(f.base_scale + row), shift = load<V>(f.base_shift + row);
  if (f.gain) gain = load<V>(f.gain + channel);
#pragma unroll
  for (int p = 0; p < P; ++p) {
    if (p >= count) break;
    Vec<A, V> value = widen<T, V>(base[p]);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (f.base_scale) value.at[i] = fused(scale.at[i], value.at[i], shift.at[i]);
      value.at[i] = s.relu && value.at[i] < 0 ? 0 : value.at[i];
    }
    if (s.source_count > 0) {
      if (f.gain) {
        add(value, gain, values[p]);
      } else {
        add(value, values[p]);
      }
    }
    values[p] = value;
    write(f.output.pixel(image, h, w + p, channel), value);
    if (!f.residual.data) continue;
    add(value, widen<T, V>(residual[p]));
    write(f.output_sum.pixel(image, h, w + p, channel), value);
  }
}

// Outside of an image.
template <class T, int V>
__device__ void write_nothing(const Forward<T>& f, int64_t image, int64_t h, int w, int64_t channel) {
  write(f.output.pixel(image, h, w, channel), splat<Wide<T>, V>(0));
  if (f.residual.data) write(f.output_sum.pixel(image, h, w, channel), splat<Wide<T>, V>(0));
}

template <class T>
Forward<T> forward_of(const DensePathway& args) {
  typedef Wide<T> A;
  Forward<T> f = {pathway_shape(args),
                  view<const T>(args.base),
                  view<const T>(args.residual),
                  view<T>(args.output),
                  view<T>(args.output_sum),
                  static_cast<const A*>(args.base_scale),
                  static_cast<const A*>(args.base_shift),
                  static_cast<const A*>(args.gain),
                  {}};
  for (size_t j = 0; j < args.sources.size(); ++j) f.sources[j] = source_of<T>(args.sources[j]);
  return f;
}

// Whether everything can be read and written 16 bytes at a time.
template <class T>
bool forward_packs(const DensePathway& args) {
  bool all = tables_aligned(args);
  for (const Map* map : {&args.base, &args.residual, &args.output, &args.output_sum}) {
    all = all && packs(*map, kFull<T>, sizeof(T));
  }
  for (const PathwaySource& source : args.sources) all = all && packs(source.map, kFull<T>, sizeof(T));
  return all;
}

}  // namespace cuda
}  // namespace zigzag
