// region_codes on CUDA: the binding.
#include "tensors.h"

namespace zigzag {
namespace cuda {
namespace {

// The six parameters of each grid, from `first` on.
std::vector<Branch> branches_of(const Tensors& parameters, size_t first, size_t count) {
  std::vector<Branch> branches(count);
  for (size_t g = 0; g < count; ++g) {
    for (int layer = 0; layer < 3; ++layer) {
      const Tensor& weight = parameters[first + 6 * g + 2 * layer];
      branches[g].weight[layer] = weight.mutable_data_ptr();
      branches[g].taps_last[layer] = weight.is_contiguous();
      branches[g].bias[layer] = parameters[first + 6 * g + 2 * layer + 1].mutable_data_ptr();
    }
  }
  return branches;
}

RegionCodes arguments_of(const Tensor& sums, const Tensors& parameters, std::vector<int64_t> grids, int64_t height,
                         int64_t width, bool mean, const OptionalTensor& valid) {
  RegionCodes args = {};
  args.dtype = dtype_of(parameters[0]);
  args.sums = sums.const_data_ptr();
  args.branches = branches_of(parameters, 0, grids.size());
  for (size_t g = 0; g < grids.size(); ++g) args.taps.push_back(parameters[6 * g].size(2) * parameters[6 * g].size(3));
  args.valid = sizes_of(valid);
  args.grids = std::move(grids);
  args.images = sums.size(0), args.channels = sums.size(2), args.height = height, args.width = width;
  args.mean = mean;
  return args;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& sums, Tensors parameters, std::vector<int64_t> grids,
                                           int64_t height, int64_t width, bool mean, OptionalTensor valid) {
  const OnDevice device(sums);
  RegionCodes args = arguments_of(sums, parameters, std::move(grids), height, width, mean, valid);
  const int64_t n = args.images, c = args.channels;
  int64_t cells = 0;
  for (const int64_t grid : args.grids) cells += grid * grid;
  Tensor codes = torch::stable::new_empty(sums, {n, cells, c}, parameters[0].scalar_type());
  Tensor regions = table_like(sums, {n, cells, c});
  Tensor hidden = table_like(sums, {n, static_cast<int64_t>(args.grids.size()), c});
  args.codes = codes.mutable_data_ptr(), args.regions = regions.mutable_data_ptr();
  args.hidden = hidden.mutable_data_ptr();
  Tensor scratch = table_like(sums, {region_codes_scratch(args, false)});
  region_codes(args, scratch.mutable_data_ptr(), device.stream());
  return {codes, regions, hidden};
}

Tensors backward(const Tensor& grad, const Tensor& sums, Tensors parameters, const Tensor& regions,
                 const Tensor& hidden, std::vector<int64_t> grids, int64_t height, int64_t width, bool mean,
                 OptionalTensor valid) {
  const OnDevice device(sums);
  RegionCodes args = arguments_of(sums, parameters, std::move(grids), height, width, mean, valid);
  Tensors grads = {torch::stable::empty_like(sums)};
  for (const Tensor& parameter : parameters) grads.push_back(torch::stable::empty_like(parameter));
  args.regions = regions.mutable_data_ptr(), args.hidden = hidden.mutable_data_ptr();
  args.grad = grad.const_data_ptr(), args.grad_sums = grads[0].mutable_data_ptr();
  args.grads = branches_of(grads, 1, args.grids.size());
  Tensor scratch = table_like(sums, {region_codes_scratch(args, true)});
  region_codes_backward(args, scratch.mutable_data_ptr(), device.stream());
  return grads;
}

}  // namespace

ZIGZAG_CUDA_IMPL(zigzag_cuda, m) {
  m.impl("region_codes", TORCH_BOX(&forward));
  m.impl("region_codes_backward", TORCH_BOX(&backward));
}

}  // namespace cuda
}  // namespace zigzag
