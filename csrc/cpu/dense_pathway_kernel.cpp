// dense_pathway forward and the table of its kernels, for one instruction set. See zigzag/ops/dense_pathway.py for what
// it computes. Each target row is made from its own sources' rows alone: they are mixed vertically into one row per
// source, which stays in the caches, then horizontally in registers, where the product is taken.
#include "dense_pathway_kernel.h"

#include <math.h>

#include "dense_pathway_backward.h"
#include "dense_pathway_rows.h"

namespace zigzag {
namespace ZIGZAG_ISA {
namespace {

template <class A>
struct ForwardScratch {
  SourceScratch<A> sources[kMaxSources];
  A *base, *residual, *output, *output_sum;  // one row each
  A *scale, *shift, *gain;                   // one block each
};

template <class A>
ForwardScratch<A> take_forward(Arena<A>& arena, const PathwayArgs& args, int64_t lanes) {
  ForwardScratch<A> s;
  const int64_t row = args.width * lanes;
  for (int64_t j = 0; j < args.source_count; ++j) {
    s.sources[j] = take_source(arena, args, args.sources[j], lanes, false);
  }
  s.base = arena.take(row), s.residual = arena.take(row), s.output = arena.take(row), s.output_sum = arena.take(row);
  s.scale = arena.take(lanes), s.shift = arena.take(lanes), s.gain = arena.take(lanes);
  return s;
}

// The rows of one target row; residual and sum are null where there is no residual.
template <class A>
struct ForwardRows {
  Row<A> base, residual, output, sum;
  bool streams;
};

template <class A>
inline void put(A* to, Vec<A> value, bool streams) {
  streams ? stream(to, value) : store(to, value);
}

// One target row. M is the number of sources where that is known when this is compiled, or -1.
template <class A, int NV, bool product, int M>
void forward_row(const PathwayArgs& args, int64_t n, const ForwardRows<A>& rows, const ForwardScratch<A>& s) {
  constexpr int most = M < 0 ? static_cast<int>(kMaxSources) : M + (M == 0);
  const int count = M < 0 ? static_cast<int>(args.source_count) : M;
  const Vec<A> floor = splat(args.relu ? A(0) : -static_cast<A>(INFINITY));
  const ForwardRows<A> r = rows;
  for (int64_t w = 0; w < args.widths[n]; ++w) {
    ColumnTap<A> taps[most];
    for (int j = 0; j < count; ++j) taps[j] = s.sources[j].taps[w];
    const auto pixel = [&](int o) {
      __builtin_prefetch(r.base.data + (w + kAhead) * r.base.step + o, 0, 3);
      Vec<A> y = fma(load(s.scale + o), load(r.base.data + w * r.base.step + o), load(s.shift + o));
      y = y < floor ? floor : y;  // a NaN stays one
      Vec<A> context = {};
      for (int j = 0; j < count; ++j) {
        const ColumnTap<A>& tap = taps[j];
        const Vec<A> one = fma(splat(tap.weight), load(tap.pixel + o), splat(tap.rest) * load(tap.other + o));
        context = j == 0 ? one : product ? context * one : context + one;
      }
      y = count > 0 ? y + context : y;
      put(r.output.data + w * r.output.step + o, y, r.streams);
      return y;
    };
    if (r.residual.data) {
      for (int o = 0; o < NV * kLanes<A>; o += kLanes<A>) {
        __builtin_prefetch(r.residual.data + (w + kAhead) * r.residual.step + o, 0, 3);
        const Vec<A> sum = pixel(o) + load(r.residual.data + w * r.residual.step + o);
        put(r.sum.data + w * r.sum.step + o, sum, r.streams);
      }
    } else {
      for (int o = 0; o < NV * kLanes<A>; o += kLanes<A>) pixel(o);
    }
  }
}

template <class A, int NV, bool product>
auto forward_row_for(int64_t count) {
  return count == 0   ? forward_row<A, NV, product, 0>
         : count == 1 ? forward_row<A, NV, product, 1>
         : count == 2 ? forward_row<A, NV, product, 2>
         : count == 3 ? forward_row<A, NV, product, 3>
                      : forward_row<A, NV, product, -1>;
}

// The gain rides on affines: on the first factor's, or on every summand's.
template <class A>
void fold_gain(const PathwayArgs& args, const Block& block, int64_t lanes, const ForwardScratch<A>& s) {
  fill_channels<A>(args.gain, 0, args.channels, block, lanes, A(1), s.gain);
  for (int64_t j = 0; j < (args.product ? smaller(args.source_count, 1) : args.source_count); ++j) {
    for (int64_t i = 0; i < lanes; i += kLanes<A>) {
      store(s.sources[j].scale + i, load(s.sources[j].scale + i) * load(s.gain + i));
      store(s.sources[j].shift + i, load(s.sources[j].shift + i) * load(s.gain + i));
    }
  }
}

template <class A, int NV>
void forward_block(const PathwayArgs& args, int64_t n, const Block& block, int64_t low, int64_t high,
                   const ForwardScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  prepare_sources<A, NV>(args, n, block, s.sources);
  fill_channels<A>(args.base_scale, n, args.channels, block, lanes, A(1), s.scale);
  fill_channels<A>(args.base_shift, n, args.channels, block, lanes, A(0), s.shift);
  fold_gain<A>(args, block, lanes, s);
  const Rows<A> base(args.base, block, n, lanes), residual(args.residual, block, n, lanes);
  const Rows<A> output(args.output, block, n, lanes), sum(args.output_sum, block, n, lanes);
  const bool summed = args.residual.data != nullptr;
  const auto row =
      args.product ? forward_row_for<A, NV, true>(args.source_count) : forward_row_for<A, NV, false>(args.source_count);
  for (int64_t h = low; h < high; ++h) {
    const int64_t width = h < args.heights[n] ? args.widths[n] : 0;
    ForwardRows<A> rows = {{}, {}, output.begin(h, s.output), {}, args.streams && output.direct()};
    if (summed) rows.sum = sum.begin(h, s.output_sum);
    if (width > 0) {
      for (int64_t j = 0; j < args.source_count; ++j) {
        const Rows<A> map(args.sources[j].map, block, n, lanes);
        make_context<A, NV>(args, args.sources[j], map, n, h, false, s.sources[j]);
      }
      rows.base = base.read(h, args.width, s.base);
      if (summed) rows.residual = residual.read(h, args.width, s.residual);
      row(args, n, rows, s);
    }
    zero_pixels(rows.output, width, args.width, lanes);
    output.finish(h, args.width, s.output);
    if (summed) {
      zero_pixels(rows.sum, width, args.width, lanes);
      sum.finish(h, args.width, s.output_sum);
    }
  }
}

template <class A>
void run_forward(const PathwayArgs& args, int64_t begin, int64_t end, void* memory) {
  Arena<A> arena(memory);
  const ForwardScratch<A> s = take_forward<A>(arena, args, kFull * kLanes<A>);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t band = task % args.bands, n = task / args.bands / args.block_count;
    const Block& block = args.blocks[task / args.bands % args.block_count];
    const auto work = block.vectors == kFull   ? forward_block<A, kFull>
                      : block.vectors == kWide ? forward_block<A, kWide>
                                               : forward_block<A, 1>;
    work(args, n, block, args.height * band / args.bands, args.height * (band + 1) / args.bands, s);
  }
  end_of_stream();
}

void forward(const PathwayArgs& args, int64_t begin, int64_t end, void* scratch) {
  return args.f64 ? run_forward<double>(args, begin, end, scratch) : run_forward<float>(args, begin, end, scratch);
}

void backward(const PathwayArgs& args, int64_t begin, int64_t end, void* scratch) {
  return args.f64 ? run_backward<double>(args, begin, end, scratch) : run_backward<float>(args, begin, end, scratch);
}

template <class A>
int64_t count_scratch(const PathwayArgs& args, bool backward) {
  Arena<A> arena(nullptr);
  if (backward) {
    take_backward<A>(arena, args, kWide * kLanes<A>);
  } else {
    take_forward<A>(arena, args, kFull * kLanes<A>);
  }
  return arena.bytes();
}

int64_t scratch_bytes(const PathwayArgs& args, bool backward) {
  return args.f64 ? count_scratch<double>(args, backward) : count_scratch<float>(args, backward);
}

}  // namespace

extern const PathwayKernels dense_pathway_kernels = {scratch_bytes, forward, backward};

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
