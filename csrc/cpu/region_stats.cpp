// region_stats on the CPU: plans each image's geometry, then runs the kernels of the machine's instruction set.
#include "region_stats_kernel.h"

#include <algorithm>

#include "../geometry.h"
#include "dispatch.h"
#include "tensors.h"

namespace zigzag {

ZIGZAG_DECLARE_KERNELS(StatsKernels, region_stats_kernels)

namespace {

// Owns what a StatsAxis points to.
struct AxisPlan {
  std::vector<int32_t> bounds, low, high, core_low, core_high, cell;
  StatsAxis view;
};

AxisPlan plan_axis(int64_t size, const std::vector<int64_t>& grids, int64_t halo, int64_t longest) {
  const int64_t taps = 2 * halo + 1;
  AxisPlan p;
  std::vector<int64_t> starts, ends;
  for (const int64_t grid : grids) {
    for (int64_t y = 0; y < grid; ++y) {
      const int64_t start = cell_start(y, size, grid), end = cell_start(y + 1, size, grid);
      for (int64_t a = 0; a < taps; ++a) {
        // An empty cell stays empty under every shift.
        starts.push_back(clamp_to(start + a - halo, 0, size));
        ends.push_back(start == end ? starts.back() : clamp_to(end + a - halo, 0, size));
      }
    }
  }
  std::vector<int64_t> bounds = {0, size};
  for (int64_t b = 0; b < size; b += longest) bounds.push_back(b);
  bounds.insert(bounds.end(), starts.begin(), starts.end());
  bounds.insert(bounds.end(), ends.begin(), ends.end());
  std::sort(bounds.begin(), bounds.end());
  bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
  p.bounds.assign(bounds.begin(), bounds.end());
  const auto atom_at = [&](int64_t row) {
    return static_cast<int32_t>(std::lower_bound(bounds.begin(), bounds.end(), row) - bounds.begin());
  };
  const int64_t atoms = static_cast<int64_t>(bounds.size()) - 1;
  p.cell.assign(grids.size() * taps * atoms, -1);
  int64_t line = 0;
  for (size_t g = 0; g < grids.size(); ++g) {
    for (int64_t y = 0; y < grids[g]; ++y) {
      int32_t core_low = 0, core_high = static_cast<int32_t>(atoms);
      for (int64_t a = 0; a < taps; ++a, ++line) {
        p.low.push_back(atom_at(starts[line]));
        p.high.push_back(atom_at(ends[line]));
        core_low = std::max(core_low, p.low.back());
        core_high = std::min(core_high, p.high.back());
        for (int32_t i = p.low.back(); i < p.high.back(); ++i) p.cell[(g * taps + a) * atoms + i] = y;
      }
      p.core_low.push_back(core_low);
      p.core_high.push_back(std::max(core_low, core_high));
    }
  }
  p.view = {size,         atoms, p.bounds.data(), p.low.data(), p.high.data(), p.core_low.data(), p.core_high.data(),
            p.cell.data()};
  return p;
}

// Plans for all images; images of one size share theirs.
struct Plan {
  std::vector<std::unique_ptr<AxisPlan>> owned;
  std::vector<StatsAxis> rows, cols;
  std::vector<Block> blocks;
  StatsArgs args;
};

void plan_images(Plan& plan, const Tensor& x, const std::vector<int64_t>& grids, int64_t halo,
                 const std::optional<Tensor>& valid, int64_t longest_row, int64_t longest_col) {
  StatsArgs& args = plan.args;
  args.x = map_of(x);
  args.f64 = args.x.dtype == Dtype::f64;
  args.grids = grids.data();
  args.grid_count = static_cast<int64_t>(grids.size());
  args.taps = 2 * halo + 1;
  for (const int64_t grid : grids) {
    args.lines += grid * args.taps;
    args.entries += grid * grid * args.taps * args.taps;
  }
  const std::vector<Extent> sizes = extents(args.x, valid);
  for (size_t n = 0; n < sizes.size(); ++n) {
    if (n > 0 && sizes[n] == sizes[n - 1]) {
      plan.rows.push_back(plan.rows.back());
      plan.cols.push_back(plan.cols.back());
      continue;
    }
    plan.owned.push_back(std::make_unique<AxisPlan>(plan_axis(sizes[n].height, grids, halo, longest_row)));
    plan.rows.push_back(plan.owned.back()->view);
    plan.owned.push_back(std::make_unique<AxisPlan>(plan_axis(sizes[n].width, grids, halo, longest_col)));
    plan.cols.push_back(plan.owned.back()->view);
    args.max_atoms = std::max({args.max_atoms, plan.rows.back().atoms, plan.cols.back().atoms});
  }
  plan.blocks = channel_blocks(args.x.c, args.f64, 4, blocks_wanted(args.x.n));
  args.rows = plan.rows.data();
  args.cols = plan.cols.data();
  args.blocks = plan.blocks.data();
  args.block_count = static_cast<int64_t>(plan.blocks.size());
}

std::tuple<Tensor, Tensor> region_stats(const Tensor& x, std::vector<int64_t> grids, int64_t halo,
                                        std::optional<Tensor> valid) {
  Plan plan;
  // Bounded runs keep float32 sums short.
  plan_images(plan, x, grids, halo, valid, kStatsStrip, 4 * kStatsStrip);
  StatsArgs& args = plan.args;
  Tensor sums = table_like(x, {args.x.n, args.entries, args.x.c});
  Tensor power = table_like(x, {args.x.n, args.x.c});
  args.sums = sums.mutable_data_ptr();
  args.power = power.mutable_data_ptr();
  const StatsKernels& kernels = ZIGZAG_KERNELS(region_stats_kernels);
  parallel_tasks(args.x.n * args.block_count, kernels.scratch_bytes(args),
                 [&](int64_t begin, int64_t end, void* scratch) { kernels.forward(args, begin, end, scratch); });
  return {sums, power};
}

Tensor region_stats_backward(const Tensor& x, const Tensor& grad_sums, const Tensor& grad_power,
                             std::vector<int64_t> grids, int64_t halo, std::optional<Tensor> valid,
                             std::optional<Tensor> others) {
  Plan plan;
  plan_images(plan, x, grids, halo, valid, std::max<int64_t>(x.size(2), 1), std::max<int64_t>(x.size(3), 1));
  StatsArgs& args = plan.args;
  Tensor grad_x = map_like(x);
  args.grad_x = map_of(grad_x);
  if (others.has_value()) args.others = map_of(*others);
  args.sums = grad_sums.mutable_data_ptr();
  args.power = grad_power.mutable_data_ptr();
  const StatsKernels& kernels = ZIGZAG_KERNELS(region_stats_kernels);
  parallel_tasks(args.x.n * args.block_count, kernels.scratch_bytes(args),
                 [&](int64_t begin, int64_t end, void* scratch) { kernels.backward(args, begin, end, scratch); });
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zigzag, CPU, m) {
  m.impl("region_stats", TORCH_BOX(&region_stats));
  m.impl("region_stats_backward", TORCH_BOX(&region_stats_backward));
}

}  // namespace zigzag
