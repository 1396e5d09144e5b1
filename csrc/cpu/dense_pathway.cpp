// dense_pathway on the CPU: plans how every source of every image is resized, then runs the machine's kernels.
#include "dense_pathway_kernel.h"

#include <algorithm>

#include "../geometry.h"
#include "dispatch.h"
#include "tensors.h"

namespace zigzag {

ZIGZAG_DECLARE_KERNELS(PathwayKernels, dense_pathway_kernels)

namespace {

using Tensors = std::vector<Tensor>;
using OptionalTensor = std::optional<Tensor>;
using OptionalTensors = std::vector<std::optional<Tensor>>;

struct ResizePlan {
  std::vector<int32_t> start, count;
  std::vector<double> first;
  ResizeAxis view;
};

ResizePlan plan_resize(int64_t source, int64_t target, Resize resize) {
  ResizePlan p;
  for (int64_t d = 0; d < target; ++d) {
    const ResizeTap tap = resize_tap(d, source, target, resize);
    p.start.push_back(static_cast<int32_t>(tap.start));
    p.count.push_back(static_cast<int32_t>(tap.count));
    p.first.push_back(tap.first);
  }
  const int64_t longest = target > 0 ? *std::max_element(p.count.begin(), p.count.end()) : 1;
  p.view = {source, target, longest, p.start.data(), p.count.data(), p.first.data()};
  return p;
}

struct CellPlan {
  std::vector<int32_t> bounds, atom, cell;
  CellAxis view;
};

CellPlan plan_cells(int64_t size, const std::vector<int64_t>& grids) {
  CellPlan p;
  for (int64_t h = 0; h < size; ++h) {
    const bool same = h > 0 && std::all_of(grids.begin(), grids.end(), [&](int64_t grid) {
                        return cell_of(h, size, grid) == cell_of(h - 1, size, grid);
                      });
    if (!same) p.bounds.push_back(static_cast<int32_t>(h));
    p.atom.push_back(static_cast<int32_t>(p.bounds.size()) - 1);
  }
  const int64_t atoms = static_cast<int64_t>(p.bounds.size());
  for (const int64_t grid : grids) {
    for (int64_t a = 0; a < atoms; ++a) p.cell.push_back(static_cast<int32_t>(cell_of(p.bounds[a], size, grid)));
  }
  p.bounds.push_back(static_cast<int32_t>(size));
  p.view = {atoms, p.bounds.data(), p.atom.data(), p.cell.data()};
  return p;
}

// The plans of one source, per image; images of one size share theirs.
struct SourcePlan {
  std::vector<std::unique_ptr<ResizePlan>> resizes;
  std::vector<std::unique_ptr<CellPlan>> cells;
  std::vector<ResizeAxis> rows, cols;
  std::vector<CellAxis> cell_rows, cell_cols;
  int64_t max_count = 1, max_atoms = 1;
};

const ResizeAxis& add(SourcePlan& plan, ResizePlan axis) {
  plan.resizes.push_back(std::make_unique<ResizePlan>(std::move(axis)));
  return plan.resizes.back()->view;
}

const CellAxis& add(SourcePlan& plan, CellPlan axis) {
  plan.cells.push_back(std::make_unique<CellPlan>(std::move(axis)));
  plan.max_atoms = std::max(plan.max_atoms, plan.cells.back()->view.atoms);
  return plan.cells.back()->view;
}

void plan_source(SourcePlan& plan, const std::vector<Extent>& from, const std::vector<Extent>& to,
                 const std::vector<int64_t>& grids, Resize resize) {
  for (size_t n = 0; n < from.size(); ++n) {
    if (n > 0 && from[n] == from[n - 1] && to[n] == to[n - 1]) {
      plan.rows.push_back(plan.rows.back());
      plan.cols.push_back(plan.cols.back());
      plan.cell_rows.push_back(plan.cell_rows.back());
      plan.cell_cols.push_back(plan.cell_cols.back());
      continue;
    }
    plan.rows.push_back(add(plan, plan_resize(from[n].height, to[n].height, resize)));
    plan.cols.push_back(add(plan, plan_resize(from[n].width, to[n].width, resize)));
    plan.cell_rows.push_back(add(plan, plan_cells(from[n].height, grids)));
    plan.cell_cols.push_back(add(plan, plan_cells(from[n].width, grids)));
    plan.max_count = std::max(plan.max_count, plan.rows.back().longest);
  }
}

const void* table(const OptionalTensor& t) { return t.has_value() ? t->const_data_ptr() : nullptr; }

Map map_of(const OptionalTensor& t) { return t.has_value() ? zigzag::map_of(*t) : Map{}; }

// Everything the kernels need; owns what `args` points to.
struct Plan {
  std::vector<SourcePlan> source_plans;
  std::vector<PathwaySource> sources;
  std::vector<int64_t> heights, widths, grids;
  std::vector<Block> blocks;
  PathwayArgs args;
};

void plan_pathway(Plan& plan, const Map& target, const Tensors& sources, const OptionalTensors& codes,
                  const OptionalTensors& scales, const OptionalTensors& shifts, const OptionalTensor& valid,
                  const OptionalTensors& source_valid, std::vector<int64_t> grids, bool nearest) {
  PathwayArgs& args = plan.args;
  STD_TORCH_CHECK(static_cast<int64_t>(sources.size()) <= kMaxSources, "zigzag: dense_pathway takes at most ",
                  kMaxSources, " sources, got ", sources.size());
  args.images = target.n, args.channels = target.c, args.height = target.h, args.width = target.w;
  args.f64 = target.dtype == Dtype::f64;
  const std::vector<Extent> to = extents(target, valid);
  for (const Extent& size : to) {
    plan.heights.push_back(size.height);
    plan.widths.push_back(size.width);
  }
  plan.grids = std::move(grids);
  for (const int64_t grid : plan.grids) args.cells += grid * grid;
  plan.source_plans.resize(sources.size());
  plan.sources.resize(sources.size());
  for (size_t j = 0; j < sources.size(); ++j) {
    PathwaySource& source = plan.sources[j];
    SourcePlan& geometry = plan.source_plans[j];
    source.map = zigzag::map_of(sources[j]);
    plan_source(geometry, extents(source.map, source_valid[j]), to, plan.grids,
                nearest ? Resize::nearest : Resize::linear);
    source.codes = table(codes[j]), source.scale = table(scales[j]), source.shift = table(shifts[j]);
    source.rows = geometry.rows.data(), source.cols = geometry.cols.data();
    source.cell_rows = geometry.cell_rows.data(), source.cell_cols = geometry.cell_cols.data();
    source.max_count = geometry.max_count;
    args.max_atoms = std::max(args.max_atoms, geometry.max_atoms);
  }
  args.sources = plan.sources.data();
  args.source_count = static_cast<int64_t>(plan.sources.size());
  args.heights = plan.heights.data(), args.widths = plan.widths.data();
  args.grids = plan.grids.data();
  args.grid_count = static_cast<int64_t>(plan.grids.size());
}

void set_blocks(Plan& plan, std::vector<Block> blocks) {
  plan.blocks = std::move(blocks);
  plan.args.blocks = plan.blocks.data();
  plan.args.block_count = static_cast<int64_t>(plan.blocks.size());
}

// More than caches keep until somebody reads it: writing past them then saves reading what is overwritten.
constexpr int64_t kStreamBytes = int64_t{24} << 20;

bool aligned(const Map& map) { return reinterpret_cast<uintptr_t>(map.data) % 64 == 0; }

bool should_stream(const PathwayArgs& args) {
  const int64_t size = args.f64 ? sizeof(double) : sizeof(float);
  const int64_t pixel = args.channels * size, maps = args.residual.data ? 4 : 2;
  return pixel % 64 == 0 && aligned(args.output) && aligned(args.output_sum) &&
         maps * args.images * args.height * args.width * pixel > kStreamBytes;
}

Tensors dense_pathway(const Tensor& base, Tensors sources, OptionalTensors codes, OptionalTensor base_scale,
                      OptionalTensor base_shift, OptionalTensors scales, OptionalTensors shifts, OptionalTensor gain,
                      OptionalTensor residual, OptionalTensor valid, OptionalTensors source_valid,
                      std::vector<int64_t> grids, bool relu, bool product, bool nearest) {
  Plan plan;
  PathwayArgs& args = plan.args;
  args.base = zigzag::map_of(base);
  plan_pathway(plan, args.base, sources, codes, scales, shifts, valid, source_valid, std::move(grids), nearest);
  Tensors results = {map_like(base)};
  if (residual.has_value()) results.push_back(map_like(base));
  args.residual = map_of(residual);
  args.output = zigzag::map_of(results[0]);
  if (residual.has_value()) args.output_sum = zigzag::map_of(results[1]);
  args.base_scale = table(base_scale), args.base_shift = table(base_shift), args.gain = table(gain);
  args.relu = relu, args.product = product;
  args.streams = should_stream(args);
  // Rows do not depend on each other: where images and blocks are fewer than the threads, rows are shared out.
  set_blocks(plan, channel_blocks(args.channels, args.f64, 16, 1));
  args.bands = clamp_to(blocks_wanted(args.images * args.block_count), 1, args.height);
  const PathwayKernels& kernels = ZIGZAG_KERNELS(dense_pathway_kernels);
  parallel_tasks(args.images * args.block_count * args.bands, kernels.scratch_bytes(args, false),
                 [&](int64_t begin, int64_t end, void* scratch) { kernels.forward(args, begin, end, scratch); });
  return results;
}

// A gradient table like `given`, or an empty tensor where there is none.
Tensor grad_table(const Tensor& like, bool given, std::vector<int64_t> sizes, void** data) {
  Tensor grad = table_like(like, given ? std::move(sizes) : std::vector<int64_t>{0});
  *data = given ? grad.mutable_data_ptr() : nullptr;
  return grad;
}

Tensors dense_pathway_backward(OptionalTensor grad, OptionalTensor grad_sum, OptionalTensor base, Tensors sources,
                               OptionalTensors codes, OptionalTensor base_scale, OptionalTensor base_shift,
                               OptionalTensors scales, OptionalTensors shifts, OptionalTensor gain,
                               OptionalTensor valid, OptionalTensors source_valid, std::vector<int64_t> grids,
                               bool relu, bool product, bool nearest) {
  const Tensor& like = base.has_value() ? *base : grad.has_value() ? *grad : *grad_sum;
  Plan plan;
  PathwayArgs& args = plan.args;
  const Map target = zigzag::map_of(like);
  plan_pathway(plan, target, sources, codes, scales, shifts, valid, source_valid, std::move(grids), nearest);
  args.base = map_of(base), args.grad = map_of(grad), args.grad_sum = map_of(grad_sum);
  args.base_scale = table(base_scale), args.base_shift = table(base_shift), args.gain = table(gain);
  args.relu = relu, args.product = product;
  const int64_t n = target.n, c = target.c;
  set_blocks(plan, channel_blocks(c, args.f64, 4, blocks_wanted(n)));
  Tensors results = {map_like(like)};
  args.grad_base = zigzag::map_of(results[0]);
  results.push_back(grad_table(like, base_scale.has_value(), {n, c}, &args.grad_base_scale));
  results.push_back(grad_table(like, base_shift.has_value(), {n, c}, &args.grad_base_shift));
  results.push_back(grad_table(like, gain.has_value(), {n, c}, &args.grad_gain));
  for (size_t j = 0; j < sources.size(); ++j) {
    PathwaySource& source = plan.sources[j];
    results.push_back(map_like(sources[j]));
    source.grad = zigzag::map_of(results.back());
    results.push_back(grad_table(like, codes[j].has_value(), {n, args.cells, c}, &source.grad_codes));
    results.push_back(grad_table(like, scales[j].has_value(), {n, c}, &source.grad_scale));
    results.push_back(grad_table(like, shifts[j].has_value(), {n, c}, &source.grad_shift));
  }
  const PathwayKernels& kernels = ZIGZAG_KERNELS(dense_pathway_kernels);
  parallel_tasks(n * args.block_count, kernels.scratch_bytes(args, true),
                 [&](int64_t begin, int64_t end, void* scratch) { kernels.backward(args, begin, end, scratch); });
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zigzag, CPU, m) {
  m.impl("dense_pathway", TORCH_BOX(&dense_pathway));
  m.impl("dense_pathway_backward", TORCH_BOX(&dense_pathway_backward));
}

}  // namespace zigzag
