// dense_pathway backward for one instruction set: one walk over the target's rows recomputes the resized sources and
// spreads their gradients. A task owns its channels of an image, so that it may add to source rows in a fixed order.
#pragma once

#include "dense_pathway_kernel.h"
#include "dense_pathway_rows.h"

namespace zigzag {
namespace ZIGZAG_ISA {
namespace {

template <class A>
struct BackwardScratch {
  SourceScratch<A> sources[kMaxSources];
  A *base, *grad, *grad_sum, *grad_base;                          // one row each
  A *scale, *shift, *gain, *grad_scale, *grad_shift, *grad_gain;  // one block each
  A* cells;                                                       // gradients of one source's codes
};

template <class A>
BackwardScratch<A> take_backward(Arena<A>& arena, const PathwayArgs& args, int64_t lanes) {
  BackwardScratch<A> s;
  const int64_t row = args.width * lanes;
  for (int64_t j = 0; j < args.source_count; ++j) {
    s.sources[j] = take_source(arena, args, args.sources[j], lanes, true);
  }
  s.base = arena.take(row), s.grad = arena.take(row), s.grad_sum = arena.take(row), s.grad_base = arena.take(row);
  s.scale = arena.take(lanes), s.shift = arena.take(lanes), s.gain = arena.take(lanes);
  s.grad_scale = arena.take(lanes), s.grad_shift = arena.take(lanes), s.grad_gain = arena.take(lanes);
  s.cells = arena.take(args.cells * lanes);
  return s;
}

template <class A>
inline void add_to(A* to, Vec<A> value) {
  store(to, load(to) + value);
}

template <class A>
inline void add_to(A* to, Vec<A> factor, Vec<A> value) {
  store(to, fma(factor, value, load(to)));
}

// The gradient of one vector of one pixel with respect to every context row, products taken from both ends.
template <class A, bool product, int M>
inline void spread_product(const PathwayArgs& args, int64_t w, int offset, Vec<A> grad, Vec<A> gain, Vec<A>& grad_gain,
                           const BackwardScratch<A>& s) {
  constexpr int most = M < 0 ? static_cast<int>(kMaxSources) : M;
  const int count = M < 0 ? static_cast<int>(args.source_count) : M;
  Vec<A> value[most], after[most];
  Vec<A> all = splat(A(product ? 1 : 0));
  for (int j = count - 1; j >= 0; --j) {
    const ColumnTap<A>& tap = s.sources[j].taps[w];
    value[j] = fma(splat(tap.weight), load(tap.pixel + offset), splat(tap.rest) * load(tap.other + offset));
    after[j] = all;
    all = product ? all * value[j] : all + value[j];
  }
  grad_gain = fma(grad, all, grad_gain);
  Vec<A> before = grad * gain;
  for (int j = 0; j < count; ++j) {
    const SourceScratch<A>& source = s.sources[j];
    const ColumnTap<A>& tap = source.taps[w];
    const Vec<A> change = product ? before * after[j] : before;
    A* to = source.grad_context + offset;
    add_to(to + (tap.pixel - source.context), splat(tap.weight), change);
    add_to(to + (tap.other - source.context), splat(tap.rest), change);
    if (product) before *= value[j];
  }
}

// The rows of one target row; absent ones are null.
template <class A>
struct TargetRows {
  Row<A> base, grad, grad_sum, grad_base;
};

// One target row: writes grad_base, and adds to the gradients of the context rows and of the small tables. A vector of
// channels is carried along the row, so that its sums stay in registers.
template <class A, int NV, bool product, int M>
void backward_row(const PathwayArgs& args, int64_t n, const TargetRows<A>& rows, const BackwardScratch<A>& s) {
  for (int o = 0; o < NV * kLanes<A>; o += kLanes<A>) {
    const Vec<A> scale = load(s.scale + o), shift = load(s.shift + o), gain = load(s.gain + o);
    Vec<A> grad_scale = {}, grad_shift = {}, grad_gain = {};
    const auto add_up = [&] {
      add_to(s.grad_scale + o, grad_scale);
      add_to(s.grad_shift + o, grad_shift);
      add_to(s.grad_gain + o, grad_gain);
      grad_scale = grad_shift = grad_gain = Vec<A>{};
    };
    for (int64_t w = 0; w < args.widths[n]; ++w) {
      if (w > 0 && w % kRun == 0) add_up();
      Vec<A> grad = {};
      if (rows.grad.data) grad = load(rows.grad.data + w * rows.grad.step + o);
      if (rows.grad_sum.data) grad += load(rows.grad_sum.data + w * rows.grad_sum.step + o);
      Vec<A> through = grad;
      if (rows.base.data) {
        const Vec<A> x = load(rows.base.data + w * rows.base.step + o);
        const Vec<A> y = fma(scale, x, shift);
        if (args.relu) through = y <= Vec<A>{} ? Vec<A>{} : grad;
        grad_scale = fma(through, x, grad_scale);
        grad_shift += through;
        through *= scale;
      }
      store(rows.grad_base.data + w * rows.grad_base.step + o, through);
      if constexpr (M != 0) spread_product<A, product, M>(args, w, o, grad, gain, grad_gain, s);
    }
    add_up();
  }
  zero_pixels(rows.grad_base, args.widths[n], args.width, NV * kLanes<A>);
}

template <class A, int NV, bool product>
auto backward_row_for(int64_t count) {
  return count == 0   ? backward_row<A, NV, product, 0>
         : count == 1 ? backward_row<A, NV, product, 1>
         : count == 2 ? backward_row<A, NV, product, 2>
         : count == 3 ? backward_row<A, NV, product, 3>
                      : backward_row<A, NV, product, -1>;
}

// From the gradient of a context row to that of its affine, and of the mixed row.
template <class A, int NV>
void reduce_context(const PathwaySource& source, int64_t n, const SourceScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  int64_t width;
  const A* plain = plain_context(source, n, s, &width);
  for (int o = 0; o < lanes; o += kLanes<A>) {
    Vec<A> grad_scale = {}, grad_shift = {};
    const auto add_up = [&] {
      add_to(s.grad_scale + o, grad_scale);
      add_to(s.grad_shift + o, grad_shift);
      grad_scale = grad_shift = Vec<A>{};
    };
    for (int64_t w = 0; w < width; ++w) {
      if (w > 0 && w % kRun == 0) add_up();
      const int64_t i = w * lanes + o;
      const Vec<A> grad = load(s.grad_context + i);
      grad_scale = fma(grad, load(plain + i), grad_scale);
      grad_shift += grad;
    }
    add_up();
  }
  if (!shrinks(source, n)) return;
  const ResizeAxis& cols = source.cols[n];
  memset(s.grad_mixed, 0, cols.source * lanes * sizeof(A));
  for (int64_t w = 0; w < cols.target; ++w) {
    const Vec<A> weight = splat(static_cast<A>(cols.first[w]));
    for (int o = 0; o < lanes; o += kLanes<A>) {
      const Vec<A> change = weight * load(s.grad_context + w * lanes + o);
      for (int64_t k = 0; k < cols.count[w]; ++k) add_to(s.grad_mixed + (cols.start[w] + k) * lanes + o, change);
    }
  }
}

// Sums of one mixed row's gradient by column atom, into code_row.
template <class A, int NV>
void reduce_codes(const CellAxis& cols, const A* grad_mixed, const SourceScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  for (int64_t c = 0; c < cols.atoms; ++c) {
    Vec<A> sum[NV] = {};
    for (int64_t i = cols.bounds[c] * lanes; i < cols.bounds[c + 1] * lanes; i += lanes) {
      for (int v = 0; v < NV; ++v) sum[v] += load(grad_mixed + i + v * kLanes<A>);
    }
    for (int v = 0; v < NV; ++v) store(s.code_row + c * lanes + v * kLanes<A>, sum[v]);
  }
}

// The rows of a source's gradient, in order: a row is begun by the first target row that reads it and finished when no
// later one will.
template <class A, int NV>
class GradRows {
 public:
  GradRows() = default;
  GradRows(const PathwaySource& source, const Block& block, int64_t n, const SourceScratch<A>& s)
      : source_(&source),
        s_(&s),
        rows_(source.rows[n]),
        width_(source.cols[n].source),
        map_(source.grad, block, n, lanes) {}

  // Adds the gradient of target row d's mixed row to the rows it was mixed from.
  void add(int64_t d, const A* grad_mixed) {
    const int64_t end = rows_.start[d] + rows_.count[d];
    for (int64_t r = rows_.start[d]; r < end; ++r) {
      spread(place(r), static_cast<A>(tap_weight(rows_, d, r - rows_.start[d])), grad_mixed, r >= fresh_);
    }
    if (end > fresh_) fresh_ = end;
  }

  // Finishes every row before `until`; those that nothing read are zero.
  void finish(int64_t until) {
    for (; done_ < until; ++done_) {
      const Row<A> row = place(done_);
      zero_pixels(row, done_ < fresh_ ? width_ : 0, source_->map.w, lanes);
      map_.finish(done_, source_->map.w, row.data);
    }
  }

 private:
  static constexpr int64_t lanes = NV * kLanes<A>;

  Row<A> place(int64_t r) const {
    return map_.begin(r, s_->grad_rows + r % source_->max_count * source_->map.w * lanes);
  }

  void spread(const Row<A>& to, A weight, const A* grad_mixed, bool fresh) const {
    Vec<A> scale[NV];
    for (int v = 0; v < NV; ++v) scale[v] = splat(weight) * load(s_->scale + v * kLanes<A>);
    for (int64_t w = 0; w < width_; ++w) {
      for (int v = 0; v < NV; ++v) {
        const int o = v * kLanes<A>;
        A* pixel = to.data + w * to.step + o;
        const Vec<A> value = scale[v] * load(grad_mixed + w * lanes + o);
        store(pixel, fresh ? value : load(pixel) + value);
      }
    }
  }

  const PathwaySource* source_ = nullptr;
  const SourceScratch<A>* s_ = nullptr;
  ResizeAxis rows_;
  int64_t width_ = 0;
  Rows<A> map_;
  int64_t fresh_ = 0, done_ = 0;
};

// Adds one target row's sums by column atom to the row atoms it was mixed from.
template <class A, int NV>
void spread_codes(const PathwaySource& source, int64_t n, int64_t d, const SourceScratch<A>& s) {
  const ResizeAxis& rows = source.rows[n];
  const CellAxis& cell_rows = source.cell_rows[n];
  const int64_t length = source.cell_cols[n].atoms * NV * kLanes<A>;
  for (int64_t k = 0; k < rows.count[d]; ++k) {
    const Vec<A> weight = splat(static_cast<A>(tap_weight(rows, d, k)));
    A* to = s.grad_codes + cell_rows.atom[rows.start[d] + k] * length;
    for (int64_t i = 0; i < length; i += kLanes<A>) add_to(to + i, weight, load(s.code_row + i));
  }
}

template <class A>
void store_table(void* table, int64_t row, int64_t channels, const Block& block, const A* from) {
  if (table) memcpy(static_cast<A*>(table) + row * channels + block.first, from, block.count * sizeof(A));
}

// From gradients by atom to gradients by cell, and out.
template <class A, int NV>
void store_source(const PathwayArgs& args, const PathwaySource& source, int64_t n, const Block& block,
                  const SourceScratch<A>& s, A* cells) {
  constexpr int64_t lanes = NV * kLanes<A>;
  store_table(source.grad_scale, n, args.channels, block, s.grad_scale);
  store_table(source.grad_shift, n, args.channels, block, s.grad_shift);
  if (!source.codes) return;
  const CellAxis& rows = source.cell_rows[n];
  const CellAxis& cols = source.cell_cols[n];
  memset(cells, 0, args.cells * lanes * sizeof(A));
  for (int64_t r = 0; r < rows.atoms; ++r) {
    for (int64_t c = 0; c < cols.atoms; ++c) {
      A* grid_cells = cells;
      for (int64_t g = 0; g < args.grid_count; ++g) {
        const int64_t cell = rows.cell[g * rows.atoms + r] * args.grids[g] + cols.cell[g * cols.atoms + c];
        for (int v = 0; v < NV; ++v) {
          const int o = v * kLanes<A>;
          add_to(grid_cells + cell * lanes + o, load(s.scale + o),
                 load(s.grad_codes + (r * cols.atoms + c) * lanes + o));
        }
        grid_cells += args.grids[g] * args.grids[g] * lanes;
      }
    }
  }
  for (int64_t cell = 0; cell < args.cells; ++cell) {
    store_table(source.grad_codes, n * args.cells + cell, args.channels, block, cells + cell * lanes);
  }
}

template <class A, int NV>
void prepare_backward(const PathwayArgs& args, int64_t n, const Block& block, const BackwardScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  prepare_sources<A, NV>(args, n, block, s.sources);
  for (int64_t j = 0; j < args.source_count; ++j) {
    const SourceScratch<A>& source = s.sources[j];
    memset(source.grad_scale, 0, lanes * sizeof(A));
    memset(source.grad_shift, 0, lanes * sizeof(A));
    const int64_t table = args.sources[j].codes ? args.max_atoms * args.max_atoms * lanes : 0;
    if (table > 0) memset(source.grad_codes, 0, table * sizeof(A));
  }
  fill_channels<A>(args.base_scale, n, args.channels, block, lanes, A(1), s.scale);
  fill_channels<A>(args.base_shift, n, args.channels, block, lanes, A(0), s.shift);
  fill_channels<A>(args.gain, 0, args.channels, block, lanes, A(1), s.gain);
  memset(s.grad_scale, 0, lanes * sizeof(A));
  memset(s.grad_shift, 0, lanes * sizeof(A));
  memset(s.grad_gain, 0, lanes * sizeof(A));
}

// The gradients of row d's sources, after backward_row has left those of the context rows.
template <class A, int NV>
void backward_source(const PathwayArgs& args, const PathwaySource& source, int64_t n, int64_t d,
                     const SourceScratch<A>& s, GradRows<A, NV>& grad_rows) {
  reduce_context<A, NV>(source, n, s);
  const A* grad_mixed = shrinks(source, n) ? s.grad_mixed : s.grad_context;
  if (source.codes) {
    reduce_codes<A, NV>(source.cell_cols[n], grad_mixed, s);
    spread_codes<A, NV>(source, n, d, s);
  }
  grad_rows.add(d, grad_mixed);
  const bool last = d + 1 == args.heights[n];
  grad_rows.finish(last ? source.map.h : source.rows[n].start[d + 1]);
}

template <class A, int NV>
void backward_block(const PathwayArgs& args, int64_t n, const Block& block, const BackwardScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  prepare_backward<A, NV>(args, n, block, s);
  const Rows<A> base(args.base, block, n, lanes), grad(args.grad, block, n, lanes);
  const Rows<A> grad_sum(args.grad_sum, block, n, lanes), grad_base(args.grad_base, block, n, lanes);
  GradRows<A, NV> grad_rows[kMaxSources];
  for (int64_t j = 0; j < args.source_count; ++j) {
    grad_rows[j] = GradRows<A, NV>(args.sources[j], block, n, s.sources[j]);
  }
  const auto row = args.product ? backward_row_for<A, NV, true>(args.source_count)
                                : backward_row_for<A, NV, false>(args.source_count);
  const Row<A> none = {nullptr, 0};
  for (int64_t h = 0; h < args.heights[n]; ++h) {
    for (int64_t j = 0; j < args.source_count; ++j) {
      const Rows<A> map(args.sources[j].map, block, n, lanes);
      make_context<A, NV>(args, args.sources[j], map, n, h, true, s.sources[j]);
      int64_t width;
      plain_context(args.sources[j], n, s.sources[j], &width);
      memset(s.sources[j].grad_context, 0, width * lanes * sizeof(A));
    }
    const TargetRows<A> rows = {args.base.data ? base.read(h, args.width, s.base) : none,
                                args.grad.data ? grad.read(h, args.width, s.grad) : none,
                                args.grad_sum.data ? grad_sum.read(h, args.width, s.grad_sum) : none,
                                grad_base.begin(h, s.grad_base)};
    row(args, n, rows, s);
    grad_base.finish(h, args.width, s.grad_base);
    for (int64_t j = 0; j < args.source_count; ++j) {
      backward_source<A, NV>(args, args.sources[j], n, h, s.sources[j], grad_rows[j]);
    }
  }
  for (int64_t h = args.heights[n]; h < args.height; ++h) {
    zero_pixels(grad_base.begin(h, s.grad_base), 0, args.width, lanes);
    grad_base.finish(h, args.width, s.grad_base);
  }
  for (int64_t j = 0; j < args.source_count; ++j) {
    store_source<A, NV>(args, args.sources[j], n, block, s.sources[j], s.cells);
  }
  store_table(args.grad_base_scale, n, args.channels, block, s.grad_scale);
  store_table(args.grad_base_shift, n, args.channels, block, s.grad_shift);
  store_table(args.grad_gain, n, args.channels, block, s.grad_gain);
}

template <class A>
void run_backward(const PathwayArgs& args, int64_t begin, int64_t end, void* memory) {
  Arena<A> arena(memory);
  const BackwardScratch<A> s = take_backward<A>(arena, args, kWide * kLanes<A>);
  for (int64_t task = begin; task < end; ++task) {
    const Block& block = args.blocks[task % args.block_count];
    const auto work = block.vectors == kWide ? backward_block<A, kWide> : backward_block<A, 1>;
    work(args, task / args.block_count, block, s);
  }
}

}  // namespace
}  // namespace ZIGZAG_ISA
}  // namespace zigzag
