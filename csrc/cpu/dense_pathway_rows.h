// What dense_pathway's forward and backward kernels share: the codes of a source by its atoms, and the
// vertical half of its resize, which leaves one row of the source per target row.
#pragma once

#include "dense_pathway_kernel.h"
#include "rows.h"

namespace zigzag {
namespace ZIGZAG_ISA {

// Hands out parts of a scratch buffer; with a null base it only counts.
template <class A>
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<A*>(base)) {}
  A* take(int64_t elements) {
    A* part = base_ ? base_ + used_ : nullptr;
    used_ += (elements + 15) / 16 * 16;  // parts start on a cache line
    return part;
  }
  int64_t bytes() const { return used_ * static_cast<int64_t>(sizeof(A)); }

 private:
  A* base_;
  int64_t used_ = 0;
};

// Pixels to fetch ahead: with many loads a pixel, a processor sees few pixels at a time.
constexpr int64_t kAhead = 2;

// Where one target pixel reads the row that holds a source's context: two pixels and their weights, or one twice.
template <class A>
struct ColumnTap {
  const A* pixel;
  const A* other;
  A weight, rest;
};

// The codes of a source, and the sums of all grids' codes in the last row atom that was asked for and the one before.
template <class A>
struct CodeRows {
  Row<const A> table;
  A* rows[2];  // of the even and the odd row atoms: [column atom]
  int64_t atom[2];
};

// The scratch of one source, for one block of channels.
template <class A>
struct SourceScratch {
  CodeRows<A>* codes;
  A* sums;      // room for codes->rows
  A* code_row;  // [column atom]: the codes of one target row
  A* strip;     // kPathwayStrip source rows in the accumulation type
  A* padded;    // a padded copy of the codes
  A* scale;     // affine of this image
  A* shift;
  A* mixed;            // [source column]: the source's rows, weighted for one target row, codes added
  A* shrunk;           // [target column]: the means of mixed, where columns are averaged
  A* context;          // affine of mixed or shrunk: what target pixels read
  ColumnTap<A>* taps;  // [target column]
  A* grad_context;     // backward: gradient of `context` by way of its affine's input, unscaled
  A* grad_mixed;       // backward: the same of `mixed`
  A* grad_codes;       // backward: the same of `codes`
  A* grad_scale;
  A* grad_shift;
  A* grad_rows;  // backward: source rows still being summed
};

template <class A>
SourceScratch<A> take_source(Arena<A>& arena, const PathwayArgs& args, const PathwaySource& source, int64_t lanes,
                             bool backward) {
  const int64_t table = source.codes ? args.max_atoms * args.max_atoms * lanes : 0;
  const int64_t row = source.map.w * lanes, target = args.width * lanes;
  const int64_t longer = row > target ? row : target;
  SourceScratch<A> s;
  s.codes = reinterpret_cast<CodeRows<A>*>(arena.take(sizeof(CodeRows<A>) / sizeof(A)));
  s.sums = arena.take(2 * args.max_atoms * lanes);
  s.code_row = arena.take(args.max_atoms * lanes);
  s.strip = arena.take(kPathwayStrip * row);
  s.padded = arena.take(args.cells * lanes);
  s.scale = arena.take(lanes);
  s.shift = arena.take(lanes);
  s.mixed = arena.take(row);
  s.shrunk = arena.take(target);
  s.context = arena.take(longer);
  s.taps = reinterpret_cast<ColumnTap<A>*>(arena.take(args.width * (sizeof(ColumnTap<A>) / sizeof(A))));
  s.grad_context = arena.take(backward ? longer : 0);
  s.grad_mixed = arena.take(backward ? row : 0);
  s.grad_codes = arena.take(backward ? table : 0);
  s.grad_scale = arena.take(backward ? lanes : 0);
  s.grad_shift = arena.take(backward ? lanes : 0);
  s.grad_rows = arena.take(backward ? source.max_count * row : 0);
  return s;
}

// A block's part of row n of an (N, C) table, or `otherwise` in every channel.
template <class A>
void fill_channels(const void* table, int64_t n, int64_t channels, const Block& block, int64_t lanes, A otherwise,
                   A* to) {
  for (int64_t i = 0; i < lanes; ++i) to[i] = table ? A(0) : otherwise;
  if (table) memcpy(to, static_cast<const A*>(table) + n * channels + block.first, block.count * sizeof(A));
}

template <class A, int NV>
void start_codes(const PathwayArgs& args, const PathwaySource& source, int64_t n, const Block& block,
                 const SourceScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const A* codes = static_cast<const A*>(source.codes) + n * args.cells * args.channels;
  const Row<const A> table = read_table<A>(codes, args.cells, args.channels, block, lanes, s.padded);
  *s.codes = {table, {s.sums, s.sums + args.max_atoms * lanes}, {-1, -1}};
}

// The sums of all grids' codes in one row atom, by column atom. Atoms are asked for in order, but for a few steps back.
template <class A, int NV>
const A* code_sums(const PathwayArgs& args, const PathwaySource& source, int64_t n, int64_t atom,
                   const SourceScratch<A>& s) {
  const CellAxis& rows = source.cell_rows[n];
  const CellAxis& cols = source.cell_cols[n];
  const Row<const A> table = s.codes->table;
  A* to = s.codes->rows[atom % 2];
  if (s.codes->atom[atom % 2] == atom) return to;
  s.codes->atom[atom % 2] = atom;
  for (int64_t c = 0; c < cols.atoms; ++c) {
    Vec<A> sum[NV] = {};
    const A* codes = table.data;
    for (int64_t g = 0; g < args.grid_count; ++g) {
      const int64_t cell = rows.cell[g * rows.atoms + atom] * args.grids[g] + cols.cell[g * cols.atoms + c];
      for (int v = 0; v < NV; ++v) sum[v] += load(codes + cell * table.step + v * kLanes<A>);
      codes += args.grids[g] * args.grids[g] * table.step;
    }
    for (int v = 0; v < NV; ++v) store(to + (c * NV + v) * kLanes<A>, sum[v]);
  }
  return to;
}

// The weight of the k-th of the rows that target row d reads.
inline double tap_weight(const ResizeAxis& axis, int64_t d, int64_t k) {
  return axis.count[d] == 2 && k == 1 ? 1.0 - axis.first[d] : axis.first[d];
}

// The codes of one target row by column atom: those of its row atom, mixed where its rows lie in several.
template <class A, int NV>
const A* mix_codes(const PathwayArgs& args, const PathwaySource& source, int64_t n, int64_t d,
                   const SourceScratch<A>& s) {
  const ResizeAxis& rows = source.rows[n];
  const int32_t* atom = source.cell_rows[n].atom;
  const int64_t length = source.cell_cols[n].atoms * NV * kLanes<A>;
  const int64_t start = rows.start[d], end = start + rows.count[d];
  if (atom[start] == atom[end - 1]) return code_sums<A, NV>(args, source, n, atom[start], s);
  memset(s.code_row, 0, length * sizeof(A));
  for (int64_t r = start, next = start; r < end; r = next) {
    double share = 0;
    for (; next < end && atom[next] == atom[r]; ++next) share += tap_weight(rows, d, next - start);
    const Vec<A> weight = splat(static_cast<A>(share));
    const A* codes = code_sums<A, NV>(args, source, n, atom[r], s);
    for (int64_t i = 0; i < length; i += kLanes<A>)
      store(s.code_row + i, fma(weight, load(codes + i), load(s.code_row + i)));
  }
  return s.code_row;
}

// Where mixed pixels go: as they are, for a later pass, and with the source's affine. Either may be null.
template <class A>
struct Mixed {
  A* plain;
  A* context;
};

// Mixes the columns low .. high - 1 of `count` rows, to the plain sums so far (`onto`) or to `start`. Many rows are
// more streams than the hardware follows: their pixels are fetched ahead.
template <class A, int NV>
inline void mix_pixels(const Row<A>* taps, const A* weights, int64_t count, int64_t low, int64_t high,
                       const Vec<A> (&start)[NV], bool onto, const Mixed<A>& to, const SourceScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const int64_t step = taps[0].step, ahead = count > 1 ? kAhead * step : 0;
  for (int64_t w = low; w < high; ++w) {
    Vec<A> sum[NV];
    for (int v = 0; v < NV; ++v) sum[v] = onto ? load(to.plain + w * lanes + v * kLanes<A>) : start[v];
    for (int64_t k = 0; k < count; ++k) {
      const Vec<A> weight = splat(weights[k]);
      const A* pixel = taps[k].data + w * step;
      for (int v = 0; v < NV; ++v) {
        __builtin_prefetch(pixel + ahead + v * kLanes<A>, 0, 3);
        sum[v] = fma(weight, load(pixel + v * kLanes<A>), sum[v]);
      }
    }
    if (to.plain) {
      for (int v = 0; v < NV; ++v) store(to.plain + w * lanes + v * kLanes<A>, sum[v]);
    }
    if (to.context) {
      for (int v = 0; v < NV; ++v) {
        const int o = v * kLanes<A>;
        store(to.context + w * lanes + o, fma(load(s.scale + o), sum[v], load(s.shift + o)));
      }
    }
  }
}

// Are a source's columns averaged, more than two to one, before target pixels read them?
inline bool shrinks(const PathwaySource& source, int64_t n) { return source.cols[n].longest > 2; }

// The vertical half of the resize of F + codes for target row d. Weights sum to one, so the affine may come before the
// last two columns are mixed; it waits where columns are averaged. With `keep` the plain sums are left in s.mixed.
template <class A, int NV>
void mix_rows(const PathwayArgs& args, const PathwaySource& source, const Rows<A>& map, int64_t n, int64_t d, bool keep,
              const SourceScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const ResizeAxis& rows = source.rows[n];
  const int64_t width = source.cols[n].source;
  const A* codes = source.codes ? mix_codes<A, NV>(args, source, n, d, s) : nullptr;
  for (int64_t first = 0; first < rows.count[d]; first += kPathwayStrip) {
    const int64_t count = smaller(kPathwayStrip, rows.count[d] - first);
    const bool done = first + count == rows.count[d] && !shrinks(source, n);
    const Mixed<A> to = {done && !keep && first == 0 ? nullptr : s.mixed, done ? s.context : nullptr};
    Row<A> taps[kPathwayStrip];
    A weights[kPathwayStrip];
    for (int64_t k = 0; k < count; ++k) {
      taps[k] = map.read(rows.start[d] + first + k, width, s.strip + k * width * lanes);
      weights[k] = static_cast<A>(tap_weight(rows, d, first + k));
    }
    Vec<A> start[NV] = {};
    if (codes == nullptr || first > 0) {
      mix_pixels<A, NV>(taps, weights, count, 0, width, start, first > 0, to, s);
      continue;
    }
    const CellAxis& cols = source.cell_cols[n];
    for (int64_t c = 0; c < cols.atoms; ++c) {
      for (int v = 0; v < NV; ++v) start[v] = load(codes + c * lanes + v * kLanes<A>);
      mix_pixels<A, NV>(taps, weights, count, cols.bounds[c], cols.bounds[c + 1], start, false, to, s);
    }
  }
}

// The means of the columns that each target pixel reads, plain and with the affine.
template <class A, int NV>
void shrink_columns(const ResizeAxis& cols, const SourceScratch<A>& s) {
  constexpr int64_t lanes = NV * kLanes<A>;
  for (int64_t w = 0; w < cols.target; ++w) {
    const Vec<A> weight = splat(static_cast<A>(cols.first[w]));
    for (int o = 0; o < lanes; o += kLanes<A>) {
      const A* pixel = s.mixed + cols.start[w] * lanes + o;
      Vec<A> sum = load(pixel);
      for (int64_t k = 1; k < cols.count[w]; ++k) sum += load(pixel + k * lanes);
      const Vec<A> mean = sum * weight;
      store(s.shrunk + w * lanes + o, mean);
      store(s.context + w * lanes + o, fma(load(s.scale + o), mean, load(s.shift + o)));
    }
  }
}

// The row that target pixels read, before its affine: mixed, or shrunk.
template <class A>
inline const A* plain_context(const PathwaySource& source, int64_t n, const SourceScratch<A>& s, int64_t* width) {
  const ResizeAxis& cols = source.cols[n];
  *width = shrinks(source, n) ? cols.target : cols.source;
  return shrinks(source, n) ? s.shrunk : s.mixed;
}

// The context of one target row; with `keep` also what plain_context gives.
template <class A, int NV>
void make_context(const PathwayArgs& args, const PathwaySource& source, const Rows<A>& map, int64_t n, int64_t d,
                  bool keep, const SourceScratch<A>& s) {
  mix_rows<A, NV>(args, source, map, n, d, keep, s);
  if (shrinks(source, n)) shrink_columns<A, NV>(source.cols[n], s);
}

template <class A>
void place_taps(const PathwaySource& source, int64_t n, int64_t lanes, const SourceScratch<A>& s) {
  const ResizeAxis& cols = source.cols[n];
  for (int64_t w = 0; w < cols.target; ++w) {
    if (shrinks(source, n)) {
      s.taps[w] = {s.context + w * lanes, s.context + w * lanes, A(1), A(0)};
    } else {
      const A* pixel = s.context + cols.start[w] * lanes;
      const A weight = static_cast<A>(cols.first[w]);
      s.taps[w] = {pixel, pixel + (cols.count[w] - 1) * lanes, weight, A(1) - weight};
    }
  }
}

template <class A>
inline Vec<A> relu(Vec<A> x) {
  return x < Vec<A>{} ? Vec<A>{} : x;  // a NaN stays one
}

// Everything one task needs of its sources.
template <class A, int NV>
void prepare_sources(const PathwayArgs& args, int64_t n, const Block& block, const SourceScratch<A>* scratch) {
  constexpr int64_t lanes = NV * kLanes<A>;
  for (int64_t j = 0; j < args.source_count; ++j) {
    const PathwaySource& source = args.sources[j];
    fill_channels<A>(source.scale, n, args.channels, block, lanes, A(1), scratch[j].scale);
    fill_channels<A>(source.shift, n, args.channels, block, lanes, A(0), scratch[j].shift);
    place_taps(source, n, lanes, scratch[j]);
    if (source.codes) start_codes<A, NV>(args, source, n, block, scratch[j]);
  }
}

template <class A>
void zero_pixels(const Row<A>& row, int64_t low, int64_t high, int64_t lanes) {
  for (int64_t w = low; w < high; ++w) memset(row.data + w * row.step, 0, lanes * sizeof(A));
}

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
