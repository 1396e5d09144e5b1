// dense_pathway on CUDA: the binding.
#include "tensors.h"

namespace zigzag {
namespace cuda {
namespace {

DensePathway arguments_of(const Tensor& target, const Tensors& sources, const OptionalTensors& codes,
                          const OptionalTensor& base_scale, const OptionalTensor& base_shift,
                          const OptionalTensors& scales, const OptionalTensors& shifts, const OptionalTensor& gain,
                          const OptionalTensor& valid, const OptionalTensors& source_valid, std::vector<int64_t> grids,
                          bool relu, bool product, bool nearest) {
  STD_TORCH_CHECK(static_cast<int64_t>(sources.size()) <= kMostSources, "zigzag: dense_pathway takes at most ",
                  kMostSources, " sources, got ", sources.size());
  DensePathway args = {};
  args.target = map_of(target);
  args.valid = sizes_of(valid);
  args.grids = std::move(grids);
  args.relu = relu, args.product = product, args.nearest = nearest;
  args.base_scale = table(base_scale), args.base_shift = table(base_shift), args.gain = table(gain);
  for (size_t j = 0; j < sources.size(); ++j) {
    args.sources.push_back({map_of(sources[j]), Map{}, sizes_of(source_valid[j]), table(codes[j]), table(scales[j]),
                            table(shifts[j]), nullptr, nullptr, nullptr});
  }
  return args;
}

// New maps for what the forward pass gives, entered into its arguments.
Tensors forward_results(DensePathway& args, const Tensor& base, const OptionalTensor& residual) {
  args.base = args.target;
  Tensors results = {map_like(base)};
  args.output = map_of(results[0]);
  if (residual.has_value()) {
    results.push_back(map_like(base));
    args.residual = map_of(*residual), args.output_sum = map_of(results[1]);
  }
  return results;
}

Tensors forward(const Tensor& base, Tensors sources, OptionalTensors codes, OptionalTensor base_scale,
                OptionalTensor base_shift, OptionalTensors scales, OptionalTensors shifts, OptionalTensor gain,
                OptionalTensor residual, OptionalTensor valid, OptionalTensors source_valid, std::vector<int64_t> grids,
                bool relu, bool product, bool nearest) {
  const OnDevice device(base);
  DensePathway args = arguments_of(base, sources, codes, base_scale, base_shift, scales, shifts, gain, valid,
                                   source_valid, std::move(grids), relu, product, nearest);
  Tensors results = forward_results(args, base, residual);
  dense_pathway(args, device.stream());
  return results;
}

Tensors forward_stats(const Tensor& base, Tensors sources, OptionalTensors codes, OptionalTensor base_scale,
                      OptionalTensor base_shift, OptionalTensors scales, OptionalTensors shifts, OptionalTensor gain,
                      OptionalTensor residual, OptionalTensor valid, OptionalTensors source_valid,
                      std::vector<int64_t> grids, bool relu, bool product, bool nearest,
                      std::vector<int64_t> stats_grids, int64_t halo) {
  const OnDevice device(base);
  DensePathway args = arguments_of(base, sources, codes, base_scale, base_shift, scales, shifts, gain, valid,
                                   source_valid, std::move(grids), relu, product, nearest);
  Tensors results = forward_results(args, base, residual);
  RegionStats stats = {args.output, Map{}, Map{}, args.valid, std::move(stats_grids), halo, nullptr, nullptr};
  results.push_back(table_like(base, {base.size(0), region_stats_entries(stats), base.size(1)}));
  stats.sums = results.back().mutable_data_ptr();
  results.push_back(table_like(base, {base.size(0), base.size(1)}));
  stats.power = results.back().mutable_data_ptr();
  Tensor scratch = table_like(base, {region_stats_scratch(stats)});
  dense_pathway_stats(args, stats, scratch.mutable_data_ptr(), device.stream());
  return results;
}

// A gradient table, or an empty tensor where there is none.
void* push_table(Tensors& results, const Tensor& like, bool given, std::vector<int64_t> sizes) {
  results.push_back(table_like(like, given ? std::move(sizes) : std::vector<int64_t>{0}));
  return given ? results.back().mutable_data_ptr() : nullptr;
}

Tensors backward(OptionalTensor grad, OptionalTensor grad_sum, OptionalTensor base, Tensors sources,
                 OptionalTensors codes, OptionalTensor base_scale, OptionalTensor base_shift, OptionalTensors scales,
                 OptionalTensors shifts, OptionalTensor gain, OptionalTensor valid, OptionalTensors source_valid,
                 std::vector<int64_t> grids, bool relu, bool product, bool nearest) {
  const Tensor& like = base.has_value() ? *base : grad.has_value() ? *grad : *grad_sum;
  const OnDevice device(like);
  DensePathway args = arguments_of(like, sources, codes, base_scale, base_shift, scales, shifts, gain, valid,
                                   source_valid, std::move(grids), relu, product, nearest);
  const int64_t n = args.target.n, c = args.target.c;
  int64_t cells = 0;
  for (const int64_t grid : args.grids) cells += grid * grid;
  args.base = optional_map(base), args.grad = optional_map(grad), args.grad_sum = optional_map(grad_sum);
  Tensors results = {map_like(like)};
  args.grad_base = map_of(results[0]);
  args.grad_base_scale = push_table(results, like, base_scale.has_value(), {n, c});
  args.grad_base_shift = push_table(results, like, base_shift.has_value(), {n, c});
  args.grad_gain = push_table(results, like, gain.has_value(), {n, c});
  for (size_t j = 0; j < sources.size(); ++j) {
    PathwaySource& source = args.sources[j];
    results.push_back(map_like(sources[j]));
    source.grad = map_of(results.back());
    source.grad_codes = push_table(results, like, codes[j].has_value(), {n, cells, c});
    source.grad_scale = push_table(results, like, scales[j].has_value(), {n, c});
    source.grad_shift = push_table(results, like, shifts[j].has_value(), {n, c});
  }
  Tensor scratch = table_like(like, {dense_pathway_backward_scratch(args)});
  dense_pathway_backward(args, scratch.mutable_data_ptr(), device.stream());
  return results;
}

}  // namespace

ZIGZAG_CUDA_IMPL(zigzag_cuda, m) {
  m.impl("dense_pathway", TORCH_BOX(&forward));
  m.impl("dense_pathway_stats", TORCH_BOX(&forward_stats));
  m.impl("dense_pathway_backward", TORCH_BOX(&backward));
}

}  // namespace cuda
}  // namespace zigzag
