// region_stats on CUDA: the binding.
#include "tensors.h"

namespace zigzag {
namespace cuda {
namespace {

RegionStats arguments_of(const Tensor& x, std::vector<int64_t> grids, int64_t halo, const OptionalTensor& valid) {
  return {map_of(x), Map{}, Map{}, sizes_of(valid), std::move(grids), halo, nullptr, nullptr};
}

template <auto kernels>
std::tuple<Tensor, Tensor> forward(const Tensor& x, std::vector<int64_t> grids, int64_t halo, OptionalTensor valid) {
  const OnDevice device(x);
  RegionStats args = arguments_of(x, std::move(grids), halo, valid);
  Tensor sums = table_like(x, {x.size(0), region_stats_entries(args), x.size(1)});
  Tensor power = table_like(x, {x.size(0), x.size(1)});
  args.sums = sums.mutable_data_ptr(), args.power = power.mutable_data_ptr();
  Tensor scratch = table_like(x, {region_stats_scratch(args)});
  kernels(args, scratch.mutable_data_ptr(), device.stream());
  return {sums, power};
}

Tensor backward(const Tensor& x, const Tensor& grad_sums, const Tensor& grad_power, std::vector<int64_t> grids,
                int64_t halo, OptionalTensor valid, OptionalTensor others) {
  const OnDevice device(x);
  RegionStats args = arguments_of(x, std::move(grids), halo, valid);
  if (others.has_value()) args.others = map_of(*others);
  Tensor grad_x = map_like(x);
  args.grad_x = map_of(grad_x);
  args.sums = grad_sums.mutable_data_ptr(), args.power = grad_power.mutable_data_ptr();
  region_stats_backward(args, device.stream());
  return grad_x;
}

}  // namespace

ZIGZAG_CUDA_IMPL(zigzag_cuda, m) {
  m.impl("region_stats", TORCH_BOX(&forward<region_stats>));
  m.impl("region_stats_backward", TORCH_BOX(&backward));
}

ZIGZAG_CUDA_IMPL(zigzag_hopper, m) {
  m.impl("region_stats", TORCH_BOX(&forward<region_stats_hopper>));
  m.impl("region_stats_backward", TORCH_BOX(&backward));
}

}  // namespace cuda
}  // namespace zigzag
