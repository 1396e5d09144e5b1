// position_sensitive_pool, forward and backward, for one instruction set. See zigzag/ops/position_sensitive_pool.py for
// what it computes.
//
// A task is one cell's channels of one image. It brings them together as a plane, channels side by side (a float map in
// channels_last with one group is used where it lies), and goes through the image's RoIs: every element of the map
// belongs to one task, so that backward adds up in the order of the RoIs, whatever the number of threads.
#include "position_sensitive_pool_kernel.h"

#include "rows.h"

namespace zigzag {
namespace ZIGZAG_ISA {
namespace {

int64_t item_bytes(const Map& map) { return map.dtype == Dtype::f64 ? 8 : map.dtype == Dtype::f32 ? 4 : 2; }

// The map of one cell: every groups^2-th channel.
Map cell_of_map(const PoolArgs& args, int64_t cell) {
  const int64_t cells = args.groups * args.groups;
  Map m = args.x;
  m.data = static_cast<char*>(m.data) + cell * m.sc * item_bytes(m);
  m.c /= cells;
  m.sc *= cells;
  return m;
}

// The columns of `pooled` that lie in a cell.
Map cell_of_pooled(const PoolArgs& args, int64_t cell) {
  const int64_t first = args.first_bin[cell % args.groups];
  Map m = args.pooled;
  if (m.n > 0) m.data = static_cast<char*>(m.data) + first * m.sw * item_bytes(m);  // without RoIs it is null
  m.w = args.first_bin[cell % args.groups + 1] - first;
  return m;
}

template <class A, int NV>
struct Task {
  static constexpr int64_t lanes = NV * kLanes<A>;

  const PoolArgs& args;
  int64_t n;
  const Block& block;
  int64_t cell;
  Map map, pooled;
  Rows<A> plane;
  A* scratch;  // the plane's rows, then a row of `pooled`

  Task(const PoolArgs& a, int64_t image, const Block& b, int64_t own_cell, void* memory)
      : args(a),
        n(image),
        block(b),
        cell(own_cell),
        map(cell_of_map(a, own_cell)),
        pooled(cell_of_pooled(a, own_cell)),
        plane(map, b, image, lanes),
        scratch(static_cast<A*>(memory)) {}

  A* row_scratch(int64_t h) const { return scratch + h * map.w * lanes; }
  Row<A> row(int64_t h) const { return plane.begin(h, row_scratch(h)); }

  // Calls work(rows, columns, row of `pooled`) for every row of bins of every RoI of the image.
  template <class Work>
  void each_row_of_bins(const Work& work) const {
    const int64_t bins = args.pooled.h, y = cell / args.groups, x = cell % args.groups;
    for (int64_t r = 0; r < args.pooled.n; ++r) {
      if (args.image[r] != n) continue;
      const Rows<A> to(pooled, block, r, lanes);
      for (int64_t p = args.first_bin[y]; p < args.first_bin[y + 1]; ++p) {
        work(args.rows[r * bins + p], args.cols + r * bins + args.first_bin[x], to, p);
      }
    }
  }

  void forward() const {
    if (!plane.direct()) {
      for (int64_t h = 0; h < map.h; ++h) plane.read(h, map.w, row_scratch(h));
    }
    A* const pooled_row = row_scratch(map.h);
    each_row_of_bins([&](const BinSpan& rows, const BinSpan* cols, const Rows<A>& to, int64_t p) {
      const Row<A> written = to.begin(p, pooled_row);
      for (int64_t q = 0; q < pooled.w; ++q) {
        const int64_t width = cols[q].end - cols[q].first, area = (rows.end - rows.first) * width;
        Vec<A> sum[NV] = {};
        if (width > 0) {
          for (int64_t h = rows.first; h < rows.end; ++h) {
            const Row<A> from = row(h);
            const A* pixel = from.data + cols[q].first * from.step;
            for (int64_t w = 0; w < width; ++w, pixel += from.step) {
              for (int v = 0; v < NV; ++v) sum[v] += load(pixel + v * kLanes<A>);
            }
          }
        }
        const Vec<A> divisor = splat(static_cast<A>(area > 0 ? area : 1));
        for (int v = 0; v < NV; ++v) store(written.data + q * written.step + v * kLanes<A>, sum[v] / divisor);
      }
      to.finish(p, pooled.w, pooled_row);
    });
  }

  void backward() const {
    for (int64_t h = 0; h < map.h; ++h) {
      const Row<A> to = row(h);
      for (int64_t w = 0; w < map.w; ++w) memset(to.data + w * to.step, 0, lanes * sizeof(A));
    }
    A* const pooled_row = row_scratch(map.h);
    each_row_of_bins([&](const BinSpan& rows, const BinSpan* cols, const Rows<A>& from, int64_t p) {
      const Row<A> grad = from.read(p, pooled.w, pooled_row);
      for (int64_t q = 0; q < pooled.w; ++q) {
        const int64_t width = cols[q].end - cols[q].first, area = (rows.end - rows.first) * width;
        if (width <= 0) continue;
        const Vec<A> divisor = splat(static_cast<A>(area > 0 ? area : 1));
        Vec<A> share[NV];
        for (int v = 0; v < NV; ++v) share[v] = load(grad.data + q * grad.step + v * kLanes<A>) / divisor;
        for (int64_t h = rows.first; h < rows.end; ++h) {
          const Row<A> to = row(h);
          A* pixel = to.data + cols[q].first * to.step;
          for (int64_t w = 0; w < width; ++w, pixel += to.step) {
            for (int v = 0; v < NV; ++v) store(pixel + v * kLanes<A>, load(pixel + v * kLanes<A>) + share[v]);
          }
        }
      }
    });
    for (int64_t h = 0; h < map.h; ++h) plane.finish(h, map.w, row_scratch(h));
  }
};

template <class A, int NV>
void run_task(const PoolArgs& args, int64_t n, const Block& block, int64_t cell, void* scratch, bool backward) {
  const Task<A, NV> task(args, n, block, cell, scratch);
  return backward ? task.backward() : task.forward();
}

template <class A>
void run(const PoolArgs& args, int64_t begin, int64_t end, void* scratch, bool backward) {
  const int64_t cells = args.groups * args.groups;
  for (int64_t task = begin; task < end; ++task) {
    const Block& block = args.blocks[task / cells % args.block_count];
    const int64_t n = task / cells / args.block_count;
    const auto work = block.vectors == kWide ? run_task<A, kWide> : run_task<A, 1>;
    work(args, n, block, task % cells, scratch, backward);
  }
}

int64_t scratch_bytes(const PoolArgs& args) {
  const int64_t pixels = args.x.h * args.x.w + args.pooled.w;
  return pixels * kWide * kVectorBytes;
}

void forward(const PoolArgs& args, int64_t begin, int64_t end, void* scratch) {
  return args.f64 ? run<double>(args, begin, end, scratch, false) : run<float>(args, begin, end, scratch, false);
}

void backward(const PoolArgs& args, int64_t begin, int64_t end, void* scratch) {
  return args.f64 ? run<double>(args, begin, end, scratch, true) : run<float>(args, begin, end, scratch, true);
}

}  // namespace

extern const PoolKernels position_sensitive_pool_kernels = {scratch_bytes, forward, backward};

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
