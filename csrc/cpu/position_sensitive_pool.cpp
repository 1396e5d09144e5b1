// position_sensitive_pool on the CPU: finds the bins of every RoI, then runs the kernels of the machine's instruction
// set.
#include "position_sensitive_pool_kernel.h"

#include "../geometry.h"
#include "dispatch.h"
#include "tensors.h"

namespace zigzag {

ZIGZAG_DECLARE_KERNELS(PoolKernels, position_sensitive_pool_kernels)

namespace {

// Owns what PoolArgs points to.
struct Plan {
  std::vector<int32_t> image;
  std::vector<BinSpan> rows, cols;
  std::vector<int64_t> first_bin;
  std::vector<Block> blocks;
  PoolArgs args;
};

void append_bins(std::vector<BinSpan>& to, int64_t first, int64_t last, int64_t bins, int64_t stride, int64_t size) {
  for (int64_t p = 0; p < bins; ++p) {
    const Span span = roi_bin(p, first, last, bins, stride, size);
    to.push_back({static_cast<int32_t>(span.first), static_cast<int32_t>(span.end)});
  }
}

template <class T>
void plan_rois(Plan& plan, const T* roi, const std::vector<Extent>& sizes, int64_t stride) {
  const int64_t bins = plan.args.pooled.h;
  for (int64_t r = 0; r < plan.args.pooled.n; ++r, roi += 5) {
    // Python checks this too, but not in compiled calls.
    bool exists = roi[0] >= T(0) && roi[0] < static_cast<T>(sizes.size());
    for (int i = 1; i < 5; ++i) exists = exists && roi[i] == roi[i];
    const int64_t n = exists ? static_cast<int64_t>(roi[0]) : 0;
    const Extent size = exists ? sizes[n] : Extent{0, 0};
    plan.image.push_back(static_cast<int32_t>(n));
    append_bins(plan.rows, nearest_pixel(roi[2]), nearest_pixel(roi[4]), bins, stride, size.height);
    append_bins(plan.cols, nearest_pixel(roi[1]), nearest_pixel(roi[3]), bins, stride, size.width);
  }
}

// A (R, P, P, D) tensor as a map (R, D, P, P).
Map pooled_map(const Tensor& t) {
  Map m = map_of(t);
  const int64_t d = m.w, size = m.c;
  m.c = d, m.h = size, m.w = size;
  m.sc = 1, m.sw = d, m.sh = size * d;
  return m;
}

void make_plan(Plan& plan, const Map& x, const Tensor& pooled, const Tensor& rois, int64_t groups, int64_t stride,
               const std::optional<Tensor>& valid) {
  PoolArgs& args = plan.args;
  args.x = x;
  args.pooled = pooled_map(pooled);
  args.groups = groups;
  args.f64 = x.dtype == Dtype::f64;
  STD_TORCH_CHECK(x.n > 0 || args.pooled.n == 0, "zigzag: rois must be of one of the images, and there is none");
  const std::vector<Extent> sizes = extents(x, valid);
  if (rois.scalar_type() == ScalarType::Double) {
    plan_rois(plan, static_cast<const double*>(rois.const_data_ptr()), sizes, stride);
  } else {
    plan_rois(plan, static_cast<const float*>(rois.const_data_ptr()), sizes, stride);
  }
  for (int64_t y = 0; y <= groups; ++y) plan.first_bin.push_back(cell_start(y, args.pooled.h, groups));
  plan.blocks = channel_blocks(args.pooled.c, args.f64, 4, blocks_wanted(x.n * groups * groups));
  args.image = plan.image.data();
  args.rows = plan.rows.data();
  args.cols = plan.cols.data();
  args.first_bin = plan.first_bin.data();
  args.blocks = plan.blocks.data();
  args.block_count = static_cast<int64_t>(plan.blocks.size());
}

int64_t tasks_of(const PoolArgs& args) { return args.x.n * args.block_count * args.groups * args.groups; }

Tensor position_sensitive_pool(const Tensor& x, const Tensor& rois, int64_t size, int64_t groups, int64_t stride,
                               std::optional<Tensor> valid) {
  Tensor pooled = torch::stable::new_empty(x, {rois.size(0), size, size, x.size(1) / (groups * groups)});
  Plan plan;
  make_plan(plan, map_of(x), pooled, rois, groups, stride, valid);
  const PoolKernels& kernels = ZIGZAG_KERNELS(position_sensitive_pool_kernels);
  parallel_tasks(tasks_of(plan.args), kernels.scratch_bytes(plan.args),
                 [&](int64_t begin, int64_t end, void* scratch) { kernels.forward(plan.args, begin, end, scratch); });
  return pooled;
}

Tensor position_sensitive_pool_backward(const Tensor& grad, const Tensor& rois, int64_t number, int64_t height,
                                        int64_t width, bool channels_last, int64_t groups, int64_t stride,
                                        std::optional<Tensor> valid) {
  const int64_t c = grad.size(3) * groups * groups;
  Tensor grad_x = channels_last ? torch::stable::new_empty(grad, {number, height, width, c})
                                : torch::stable::new_empty(grad, {number, c, height, width});
  Map x = map_of(grad_x);
  if (channels_last) {
    x.c = c, x.h = height, x.w = width;
    x.sc = 1, x.sw = c, x.sh = width * c;
  }
  Plan plan;
  make_plan(plan, x, grad, rois, groups, stride, valid);
  const PoolKernels& kernels = ZIGZAG_KERNELS(position_sensitive_pool_kernels);
  parallel_tasks(tasks_of(plan.args), kernels.scratch_bytes(plan.args),
                 [&](int64_t begin, int64_t end, void* scratch) { kernels.backward(plan.args, begin, end, scratch); });
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zigzag, CPU, m) {
  m.impl("position_sensitive_pool", TORCH_BOX(&position_sensitive_pool));
  m.impl("position_sensitive_pool_backward", TORCH_BOX(&position_sensitive_pool_backward));
}

}  // namespace zigzag
