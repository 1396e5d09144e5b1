// region_stats, forward and backward, for one instruction set. See zigzag/ops/region_stats.py for what it computes.
//
// Forward: the map is cut into rectangles of row atoms x column atoms. Each pixel is read once, into the sum and the
// power of its rectangle, in registers; every (grid, cell, tap) is then a sum of rectangles, columns first, then rows.
// Backward is the adjoint: one value per rectangle, added to every pixel in it, and to what others give its gradient.
#include "region_stats_kernel.h"

#include <algorithm>

#include "../rounding.h"
#include "rows.h"

namespace zigzag {
namespace ZIGZAG_ISA {
namespace {

int64_t lanes_of(const StatsArgs& args) { return (args.f64 ? kLanes<double> : kLanes<float>)*kWide; }

// Scratch of one task, in accumulation-type elements; forward and backward use the parts they need.
template <class A>
struct Scratch {
  A* strip;   // kStatsStrip rows of pixels (forward), or the row written and the rows read (backward)
  A* pieces;  // forward: [row atom][column atom]; backward: [column atom]
  A* lines;   // forward: [tap][column atom] of one row of cells; backward: [column line]
  A* table;   // backward: a padded copy of the gradient of sums
};

template <class A>
Scratch<A> carve(const StatsArgs& args, void* memory, int64_t* elements) {
  const int64_t lanes = lanes_of(args);
  A* base = static_cast<A*>(memory);
  int64_t at = 0;
  Scratch<A> s;
  s.strip = base + at;
  at += kStatsStrip * args.x.w * lanes;
  s.pieces = base + at;
  at += args.max_atoms * args.max_atoms * lanes;
  s.lines = base + at;
  at += (args.max_atoms * args.taps + args.lines) * lanes;
  s.table = base + at;
  at += args.entries * lanes;
  *elements = at;
  return s;
}

template <class A, int NV>
inline void store_block(A* to, const Vec<A> (&sum)[NV]) {
  for (int v = 0; v < NV; ++v) store(to + v * kLanes<A>, sum[v]);
}

template <class A, int NV>
inline void store_channels(A* to, const Vec<A> (&sum)[NV], int64_t count) {
  if (count == NV * kLanes<A>) return store_block<A, NV>(to, sum);
  A padded[NV * kLanes<A>];
  store_block<A, NV>(padded, sum);
  memcpy(to, padded, count * sizeof(A));
}

// to = from[low] + .. + from[high - 1], runs of `length` elements that lie `step` apart; `base`, if given, is added.
template <class A>
inline void sum_rows(const A* from, int64_t step, int64_t low, int64_t high, int64_t length, const A* base, A* to) {
  for (int64_t i = 0; i < length; i += kLanes<A>) {
    Vec<A> sum = base ? load(base + i) : Vec<A>{};
    for (int64_t r = low; r < high; ++r) sum += load(from + r * step + i);
    store(to + i, sum);
  }
}

// The shifted sums of one row of cells, still apart by column atom: lines[tap][column atom].
// What the taps share is summed once.
template <class A>
void sum_row_lines(const StatsAxis& rows, int64_t cell, int64_t taps, const A* pieces, int64_t length, A* lines) {
  const int32_t* low = rows.low + cell * taps;
  const int32_t* high = rows.high + cell * taps;
  const int64_t core_low = rows.core_low[cell], core_high = rows.core_high[cell];
  A* core = lines + (taps - 1) * length;
  sum_rows<A>(pieces, length, core_low, core_high, length, nullptr, core);
  for (int64_t tap = 0; tap < taps; ++tap) {
    A* to = lines + tap * length;
    if (core_low < core_high) {
      sum_rows<A>(pieces, length, low[tap], core_low, length, core, to);
      sum_rows<A>(pieces, length, core_high, high[tap], length, to, to);
    } else {
      sum_rows<A>(pieces, length, low[tap], high[tap], length, nullptr, to);
    }
  }
}

template <class A, int NV>
inline void add_pieces(const A* from, int64_t low, int64_t high, Vec<A> (&sum)[NV]) {
  for (int64_t i = low; i < high; ++i) {
    for (int v = 0; v < NV; ++v) sum[v] += load(from + (i * NV + v) * kLanes<A>);
  }
}

// From one line of column atoms to the cells and taps of one grid. `stride` separates cells, `channels` taps.
template <class A, int NV>
void sum_columns(const StatsAxis& cols, int64_t first_cell, int64_t grid, int64_t taps, const A* line, A* to,
                 int64_t stride, int64_t channels, int64_t count) {
  for (int64_t cell = first_cell; cell < first_cell + grid; ++cell, to += stride) {
    const int64_t core_low = cols.core_low[cell], core_high = cols.core_high[cell];
    Vec<A> core[NV] = {};
    add_pieces<A, NV>(line, core_low, core_high, core);
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t low = cols.low[cell * taps + tap], high = cols.high[cell * taps + tap];
      Vec<A> sum[NV];
      for (int v = 0; v < NV; ++v) sum[v] = core[v];
      if (core_low < core_high) {
        add_pieces<A, NV>(line, low, core_low, sum);
        add_pieces<A, NV>(line, core_high, high, sum);
      } else {
        add_pieces<A, NV>(line, low, high, sum);
      }
      store_channels<A, NV>(to + tap * channels, sum, count);
    }
  }
}

// Reads the rows of one row atom: rectangle sums into `pieces`, and the sum of squares into `power`.
// Pixels `ahead` elements on are fetched meanwhile: a block's share of a pixel is too short a run for
// the hardware to follow.
template <class A, int NV>
inline void sum_rectangles(const Row<A>* rows, int64_t row_count, int64_t ahead, const StatsAxis& cols, A* pieces,
                           Vec<A> (&power)[NV]) {
  constexpr int64_t lanes = NV * kLanes<A>;
  for (int64_t i = 0; i < row_count; ++i) {
    const A* pixel = rows[i].data;
    const int64_t step = rows[i].step;
    A* piece = pieces;
    Vec<A> square[NV] = {};
    int64_t squares = 0;
    for (int64_t atom = 0; atom < cols.atoms; ++atom, piece += lanes) {
      Vec<A> sum[NV];
      for (int v = 0; v < NV; ++v) sum[v] = i > 0 ? load(piece + v * kLanes<A>) : Vec<A>{};
      for (int64_t w = cols.bounds[atom]; w < cols.bounds[atom + 1];) {
        const int64_t end = std::min<int64_t>(cols.bounds[atom + 1], w + kRun - squares);
        squares += end - w;
        for (; w < end; ++w, pixel += step) {
          for (int v = 0; v < NV; ++v) {
            const Vec<A> x = load(pixel + v * kLanes<A>);
            __builtin_prefetch(pixel + ahead + v * kLanes<A>, 0, 2);
            sum[v] += x;
            square[v] = fma(x, x, square[v]);
          }
        }
        if (squares == kRun) {
          for (int v = 0; v < NV; ++v) power[v] += square[v], square[v] = Vec<A>{};
          squares = 0;
        }
      }
      for (int v = 0; v < NV; ++v) store(piece + v * kLanes<A>, sum[v]);
    }
    for (int v = 0; v < NV; ++v) power[v] += square[v];
  }
}

template <class A, int NV>
void forward_block(const StatsArgs& args, int64_t n, const Block& block, const Scratch<A>& scratch) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const StatsAxis& rows = args.rows[n];
  const StatsAxis& cols = args.cols[n];
  const Rows<A> x(args.x, block, n, lanes);
  const int64_t length = cols.atoms * lanes;
  Vec<A> power[NV] = {};
  for (int64_t atom = 0; atom < rows.atoms; ++atom) {
    Row<A> strip[kStatsStrip];
    const int64_t first = rows.bounds[atom], count = rows.bounds[atom + 1] - first;
    for (int64_t i = 0; i < count; ++i) {
      strip[i] = x.read(first + i, cols.size, scratch.strip + i * cols.size * lanes);
    }
    Vec<A> strip_power[NV] = {};
    sum_rectangles<A, NV>(strip, count, 2 * x.ahead(), cols, scratch.pieces + atom * length, strip_power);
    for (int v = 0; v < NV; ++v) power[v] += strip_power[v];
  }
  store_channels<A, NV>(static_cast<A*>(args.power) + n * args.x.c + block.first, power, block.count);
  const int64_t channels = args.x.c, taps = args.taps;
  A* to = static_cast<A*>(args.sums) + n * args.entries * channels + block.first;
  int64_t first_cell = 0;
  for (int64_t g = 0; g < args.grid_count; ++g) {
    const int64_t grid = args.grids[g], cell_stride = taps * taps * channels;
    for (int64_t y = 0; y < grid; ++y, to += grid * cell_stride) {
      sum_row_lines<A>(rows, first_cell + y, taps, scratch.pieces, length, scratch.lines);
      for (int64_t tap = 0; tap < taps; ++tap) {
        sum_columns<A, NV>(cols, first_cell, grid, taps, scratch.lines + tap * length, to + tap * taps * channels,
                           cell_stride, channels, block.count);
      }
    }
    first_cell += grid;
  }
}

// For one row atom: the gradient of every column line, the taps of its row summed.
template <class A, int NV>
void gather_lines(const StatsArgs& args, const StatsAxis& rows, int64_t atom, Row<const A> grad, A* lines) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const int64_t taps = args.taps;
  const A* base = grad.data;
  for (int64_t g = 0; g < args.grid_count; ++g) {
    const int64_t grid = args.grids[g];
    for (int64_t line = 0; line < grid * taps; ++line, lines += lanes) {
      Vec<A> sum[NV] = {};
      for (int64_t a = 0; a < taps; ++a) {
        const int64_t y = rows.cell[(g * taps + a) * rows.atoms + atom];
        if (y < 0) continue;
        const int64_t entry = ((y * grid + line / taps) * taps + a) * taps + line % taps;
        for (int v = 0; v < NV; ++v) sum[v] += load(base + entry * grad.step + v * kLanes<A>);
      }
      store_block<A, NV>(lines, sum);
    }
    base += grid * grid * taps * taps * grad.step;
  }
}

// One value per column atom: the gradients of all lines that hold it.
template <class A, int NV>
void gather_pieces(const StatsArgs& args, const StatsAxis& cols, const A* lines, A* pieces) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const int64_t taps = args.taps;
  for (int64_t atom = 0; atom < cols.atoms; ++atom) {
    Vec<A> sum[NV] = {};
    int64_t first_cell = 0;
    for (int64_t g = 0; g < args.grid_count; ++g) {
      for (int64_t b = 0; b < taps; ++b) {
        const int64_t x = cols.cell[(g * taps + b) * cols.atoms + atom];
        if (x < 0) continue;
        for (int v = 0; v < NV; ++v) sum[v] += load(lines + ((first_cell + x) * taps + b) * lanes + v * kLanes<A>);
      }
      first_cell += args.grids[g];
    }
    store_block<A, NV>(pieces + atom * lanes, sum);
  }
}

// The rows of a map that may not be there: then one pixel of zeros, again and again.
template <class A>
class Others {
 public:
  Others(const Map& map, const Block& block, int64_t n, int64_t lanes, A* scratch)
      : rows_(map, block, n, lanes), scratch_(scratch), there_(map.data != nullptr) {
    if (!there_) std::fill_n(scratch, lanes, A(0));
  }

  Row<A> read(int64_t h, int64_t width) const { return there_ ? rows_.read(h, width, scratch_) : Row<A>{scratch_, 0}; }

 private:
  Rows<A> rows_;
  A* scratch_;
  bool there_;
};

// What others gave was rounded already: a sum that hardly differs from it would be rounded back to it.
template <class A>
void dither_row(const StatsArgs& args, const Block& block, int64_t h, int64_t end, Row<A> row) {
  if constexpr (sizeof(A) == 4) {
    if (!args.others.data || args.x.dtype == Dtype::f32) return;
    const auto each = [&](auto dithered) {
      for (int64_t w = 0; w < end; ++w) {
        A* pixel = row.data + w * row.step;
        for (int64_t c = 0; c < block.count; ++c) pixel[c] = dithered(pixel[c], dither_phase(h, w, block.first + c));
      }
    };
    if (args.x.dtype == Dtype::bf16) return each([](float v, uint32_t phase) { return dithered_bfloat(v, phase); });
    each([](float v, uint32_t phase) { return dithered_half(v, phase); });
  }
}

template <class A>
void copy_pixels(Row<A> from, Row<A> to, int64_t begin, int64_t end, int64_t lanes) {
  for (int64_t w = begin; w < end; ++w) memcpy(to.data + w * to.step, from.data + w * from.step, lanes * sizeof(A));
}

template <class A, int NV>
void backward_block(const StatsArgs& args, int64_t n, const Block& block, const Scratch<A>& scratch) {
  constexpr int64_t lanes = NV * kLanes<A>;
  const StatsAxis& rows = args.rows[n];
  const StatsAxis& cols = args.cols[n];
  const Rows<A> x(args.x, block, n, lanes), grad_x(args.grad_x, block, n, lanes);
  const Others<A> others(args.others, block, n, lanes, scratch.strip + args.x.w * lanes);
  const int64_t channels = args.x.c, width = args.x.w;
  const Row<const A> grad = read_table<A>(static_cast<const A*>(args.sums) + n * args.entries * channels, args.entries,
                                          channels, block, lanes, scratch.table);
  A padded[lanes];
  const A* slope =
      read_table<A>(static_cast<const A*>(args.power) + n * channels, 1, channels, block, lanes, padded).data;
  Vec<A> twice[NV];
  for (int v = 0; v < NV; ++v) twice[v] = load(slope + v * kLanes<A>) + load(slope + v * kLanes<A>);
  for (int64_t atom = 0; atom < rows.atoms; ++atom) {
    gather_lines<A, NV>(args, rows, atom, grad, scratch.lines);
    gather_pieces<A, NV>(args, cols, scratch.lines, scratch.pieces);
    for (int64_t h = rows.bounds[atom]; h < rows.bounds[atom + 1]; ++h) {
      const Row<A> from = x.read(h, cols.size, scratch.strip + 2 * width * lanes);
      const Row<A> rest = others.read(h, width);
      const Row<A> to = grad_x.begin(h, scratch.strip);
      for (int64_t piece = 0; piece < cols.atoms; ++piece) {
        Vec<A> add[NV];
        for (int v = 0; v < NV; ++v) add[v] = load(scratch.pieces + piece * lanes + v * kLanes<A>);
        for (int64_t w = cols.bounds[piece]; w < cols.bounds[piece + 1]; ++w) {
          for (int v = 0; v < NV; ++v) {
            const int o = v * kLanes<A>;
            const Vec<A> own = fma(load(from.data + w * from.step + o), twice[v], add[v]);
            store(to.data + w * to.step + o, own + load(rest.data + w * rest.step + o));
          }
        }
      }
      dither_row<A>(args, block, h, cols.size, to);
      copy_pixels<A>(rest, to, cols.size, width, lanes);
      grad_x.finish(h, width, scratch.strip);
    }
  }
  for (int64_t h = rows.size; h < args.x.h; ++h) {
    const Row<A> rest = others.read(h, width);
    const Row<A> to = grad_x.begin(h, scratch.strip);
    copy_pixels<A>(rest, to, 0, width, lanes);
    grad_x.finish(h, width, scratch.strip);
  }
}

template <class A>
void run(const StatsArgs& args, int64_t begin, int64_t end, void* memory, bool backward) {
  int64_t elements;
  const Scratch<A> scratch = carve<A>(args, memory, &elements);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t n = task / args.block_count;
    const Block& block = args.blocks[task % args.block_count];
    const auto work = backward ? (block.vectors == kWide ? backward_block<A, kWide> : backward_block<A, 1>)
                               : (block.vectors == kWide ? forward_block<A, kWide> : forward_block<A, 1>);
    work(args, n, block, scratch);
  }
}

int64_t scratch_bytes(const StatsArgs& args) {
  int64_t elements;
  if (args.f64) {
    carve<double>(args, nullptr, &elements);
    return elements * sizeof(double);
  }
  carve<float>(args, nullptr, &elements);
  return elements * sizeof(float);
}

void forward(const StatsArgs& args, int64_t begin, int64_t end, void* scratch) {
  return args.f64 ? run<double>(args, begin, end, scratch, false) : run<float>(args, begin, end, scratch, false);
}

void backward(const StatsArgs& args, int64_t begin, int64_t end, void* scratch) {
  return args.f64 ? run<double>(args, begin, end, scratch, true) : run<float>(args, begin, end, scratch, true);
}

}  // namespace

extern const StatsKernels region_stats_kernels = {scratch_bytes, forward, backward};

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
