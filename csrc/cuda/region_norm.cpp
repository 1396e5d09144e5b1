// region_norm on CUDA: the binding.
#include "tensors.h"

namespace zigzag {
namespace cuda {
namespace {

Table as_table(const Tensor& t) {
  const bool vector = t.dim() == 1;
  return {t.mutable_data_ptr(), t.scalar_type() == ScalarType::Double, vector ? 0 : t.stride(0),
          t.dim() == 3 ? t.stride(1) : 0};
}

RegionNorm arguments_of(const Tensor& sums, const OptionalTensor& codes, const Tensor& weight,
                        std::vector<int64_t> grids, int64_t groups, int64_t height, int64_t width, double eps,
                        const OptionalTensor& valid) {
  RegionNorm args = {};
  args.sums = as_table(sums);
  if (codes.has_value()) args.codes = as_table(*codes);
  args.weight = as_table(weight);
  args.valid = sizes_of(valid);
  args.grids = std::move(grids);
  args.images = sums.size(0), args.channels = sums.size(2), args.groups = groups;
  args.height = height, args.width = width, args.eps = eps;
  return args;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& sums, const Tensor& power, OptionalTensor codes,
                                           const Tensor& weight, const Tensor& bias, std::vector<int64_t> grids,
                                           int64_t groups, int64_t height, int64_t width, double eps,
                                           OptionalTensor valid) {
  const OnDevice device(sums);
  RegionNorm args = arguments_of(sums, codes, weight, std::move(grids), groups, height, width, eps, valid);
  Tensor scale = torch::stable::new_empty(weight, {args.images, args.channels});
  Tensor shift = torch::stable::new_empty(weight, {args.images, args.channels});
  Tensor moments = torch::stable::new_empty(sums, {args.images, 2, groups}, ScalarType::Double);
  args.power = as_table(power), args.bias = as_table(bias);
  args.scale = as_table(scale), args.shift = as_table(shift);
  args.moments = static_cast<double*>(moments.mutable_data_ptr());
  region_norm(args, device.stream());
  return {scale, shift, moments};
}

Tensors backward(const Tensor& grad_scale, const Tensor& grad_shift, const Tensor& sums, OptionalTensor codes,
                 const Tensor& weight, const Tensor& moments, std::vector<int64_t> grids, int64_t height, int64_t width,
                 double eps, OptionalTensor valid) {
  const OnDevice device(sums);
  RegionNorm args = arguments_of(sums, codes, weight, std::move(grids), moments.size(2), height, width, eps, valid);
  const int64_t n = args.images, c = args.channels;
  Tensors grads = {torch::stable::new_empty(sums, {n, sums.size(1), c}), torch::stable::new_empty(sums, {n, c}),
                   torch::stable::new_empty(weight, {c}), torch::stable::new_empty(weight, {c})};
  if (codes.has_value()) {
    grads.push_back(torch::stable::new_empty(*codes, {n, sums.size(1), c}));
    args.grad_codes = as_table(grads[4]);
  }
  Tensor by_image = torch::stable::new_empty(sums, {n, 2, c}, ScalarType::Double);
  args.scale = as_table(grad_scale), args.shift = as_table(grad_shift);
  args.moments = static_cast<double*>(moments.mutable_data_ptr());
  args.by_image = static_cast<double*>(by_image.mutable_data_ptr());
  args.grad_sums = as_table(grads[0]), args.grad_power = as_table(grads[1]);
  args.grad_weight = as_table(grads[2]), args.grad_bias = as_table(grads[3]);
  region_norm_backward(args, device.stream());
  return grads;
}

}  // namespace

ZIGZAG_CUDA_IMPL(zigzag_cuda, m) {
  m.impl("region_norm", TORCH_BOX(&forward));
  m.impl("region_norm_backward", TORCH_BOX(&backward));
}

}  // namespace cuda
}  // namespace zigzag
