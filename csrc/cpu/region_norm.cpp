// region_norm on the CPU: a GroupNorm's scale and shift, from region sums. It is little work, all of it in double, so
// the vectors that every machine has must do: no kernel per instruction set.
#include "region_norm_overlaps.h"

#include <algorithm>
#include <cmath>

#include "tensors.h"

namespace zigzag {
namespace {

// --- tables in float or double, as double --------------------------------------------------------------------------

// (N, S, C) or (N, C), with C dense.
struct Table {
  explicit Table(const Tensor& t)
      : data(t.mutable_data_ptr()),
        wide(t.scalar_type() == ScalarType::Double),
        image(t.stride(0)),
        row(t.dim() == 3 ? t.stride(1) : 0) {
    STD_TORCH_CHECK(wide || t.scalar_type() == ScalarType::Float, "zigzag: region_norm reads float64 and float32");
  }

  void read(int64_t n, int64_t s, int64_t channel, int64_t count, double* to) const {
    const int64_t at = n * image + s * row + channel;
    if (wide) {
      std::copy_n(static_cast<const double*>(data) + at, count, to);
    } else {
      std::copy_n(static_cast<const float*>(data) + at, count, to);
    }
  }

  void write(int64_t n, int64_t s, int64_t channel, int64_t count, const double* from) const {
    const int64_t at = n * image + s * row + channel;
    if (wide) {
      std::copy_n(from, count, static_cast<double*>(data) + at);
    } else {
      std::transform(from, from + count, static_cast<float*>(data) + at,
                     [](double v) { return static_cast<float>(v); });
    }
  }

  void* data;
  bool wide;
  int64_t image, row;
};

std::vector<double> values_of(const Tensor& t) {
  std::vector<double> values(t.numel());
  Table(torch::stable::view(t, {1, t.numel()})).read(0, 0, 0, t.numel(), values.data());
  return values;
}

// --- the operation -------------------------------------------------------------------------------------------------

class Norm {
 public:
  Norm(const Tensor& sums, const std::optional<Tensor>& codes, const Tensor& weight, const std::vector<int64_t>& grids,
       int64_t groups, int64_t height, int64_t width, const std::optional<Tensor>& valid)
      : grids_(grids),
        sums_(sums),
        weight_(values_of(weight)),
        images_(sums.size(0)),
        channels_(sums.size(2)),
        groups_(groups) {
    if (codes.has_value()) codes_.emplace(*codes);
    Map map;
    map.n = images_, map.h = height, map.w = width;
    const std::vector<Extent> sizes = extents(map, valid);
    for (size_t n = 0; n < sizes.size(); ++n) {
      if (n == 0 || !(sizes[n] == sizes[n - 1])) plans_.emplace_back(sizes[n], grids_);
      plan_of_.push_back(plans_.size() - 1);
    }
  }

  // Writes scale and shift (N, C), and mean and variance (N, 2, groups).
  void forward(const Tensor& power, const Tensor& bias, double eps, const Tensor& scale, const Tensor& shift,
               const Tensor& moments) const {
    const std::vector<double> biases = values_of(bias);
    const Table powers(power), scales(scale), shifts(shift), all_moments(moments);
    const int64_t size = channels_ / groups_;
    parallel_tasks(images_, scratch_bytes(), [&](int64_t begin, int64_t end, void* scratch) {
      std::vector<double> total(channels_), square(channels_), mean(groups_), variance(groups_);
      for (int64_t n = begin; n < end; ++n) {
        powers.read(n, 0, 0, channels_, square.data());
        for (int64_t c = 0; c < channels_; c += kLanes) sum_region(n, c, scratch, &total[c], &square[c]);
        for (int64_t g = 0; g < groups_; ++g) {
          mean[g] = sum(total, g * size, size) / values_in_group(n);
          variance[g] = sum(square, g * size, size) / values_in_group(n) - mean[g] * mean[g];
          const double deviation = deviation_of(variance[g], eps);
          for (int64_t c = g * size; c < (g + 1) * size; ++c) {
            total[c] = weight_[c] / deviation;
            square[c] = biases[c] - mean[g] * total[c];
          }
        }
        scales.write(n, 0, 0, channels_, total.data());
        shifts.write(n, 0, 0, channels_, square.data());
        all_moments.write(n, 0, 0, groups_, mean.data());
        all_moments.write(n, 1, 0, groups_, variance.data());
      }
    });
  }

  struct Gradients {
    Tensor sums, power, weight, bias;
    std::optional<Tensor> codes;
  };

  void backward(const Tensor& grad_scale, const Tensor& grad_shift, const Tensor& moments, double eps,
                const Gradients& grads) const {
    const Table scales(grad_scale), shifts(grad_shift), all_moments(moments), powers(grads.power);
    // Of every image: the gradients of a total and of a power, and what its affine gives to weight and bias.
    std::vector<double> by_image(images_ * 2 * channels_);
    parallel_tasks(images_, scratch_bytes(), [&](int64_t begin, int64_t end, void* scratch) {
      std::vector<double> mean(groups_), variance(groups_), total(channels_), square(channels_);
      for (int64_t n = begin; n < end; ++n) {
        double* to_scale = &by_image[n * 2 * channels_];
        double* to_shift = to_scale + channels_;
        scales.read(n, 0, 0, channels_, to_scale);
        shifts.read(n, 0, 0, channels_, to_shift);
        all_moments.read(n, 0, 0, groups_, mean.data());
        all_moments.read(n, 1, 0, groups_, variance.data());
        for (int64_t g = 0; g < groups_; ++g) {
          group_backward(n, g, mean[g], variance[g], eps, to_scale, to_shift, total.data(), square.data());
        }
        powers.write(n, 0, 0, channels_, square.data());
        for (int64_t c = 0; c < channels_; c += kLanes) cells_backward(n, c, scratch, &total[c], &square[c], grads);
      }
    });
    write_sum(by_image, 0, grads.weight);
    write_sum(by_image, channels_, grads.bias);
  }

 private:
  // The codes and sums of a few channels in every cell; T, the sums of R, in the place of the sums.
  struct Cells {
    Lanes *codes, *sums, *line_sums;
  };

  int64_t scratch_bytes() const {
    return (2 * grids_.cells + grids_.lines * grids_.largest) * static_cast<int64_t>(sizeof(Lanes));
  }

  Cells cells_in(void* scratch) const {
    Lanes* lanes = static_cast<Lanes*>(scratch);
    return {lanes, lanes + grids_.cells, lanes + 2 * grids_.cells};
  }

  // Reads `rows` rows of kLanes channels; those past the last channel are 0.
  void read(const Table& table, int64_t n, int64_t rows, int64_t channel, Lanes* to) const {
    for (int64_t s = 0; s < rows; ++s) {
      if (lanes_at(channel) < kLanes) to[s] = Lanes{};
      table.read(n, s, channel, lanes_at(channel), to[s].values());
    }
  }

  // sum(R) = sum of T over the first grid, and sum(R^2) = sum(F^2), which `square` holds, + sum of Q (S + T).
  void sum_region(int64_t n, int64_t channel, void* scratch, double* total, double* square) const {
    const Cells cells = cells_in(scratch);
    Lanes sum{}, squares{};
    read(sums_, n, codes_.has_value() ? grids_.cells : grids_.core, channel, cells.sums);
    if (codes_.has_value()) {
      read(*codes_, n, grids_.cells, channel, cells.codes);
      for (int64_t s = 0; s < grids_.cells; ++s) add_product(squares, cells.codes[s], cells.sums[s]);
      add_overlaps(grids_, plan(n), cells.codes, cells.sums, cells.line_sums);
      for (int64_t s = 0; s < grids_.cells; ++s) add_product(squares, cells.codes[s], cells.sums[s]);
    }
    for (int64_t s = 0; s < grids_.core; ++s) add_product(sum, 1.0, cells.sums[s]);
    for (int64_t i = 0; i < lanes_at(channel); ++i) {
      total[i] = sum.values()[i];
      square[i] += squares.values()[i];
    }
  }

  // From the gradients of scale and shift, in whose place it leaves those of weight and bias, to those of the sum and
  // the sum of squares of each of the group's channels.
  void group_backward(int64_t n, int64_t g, double mean, double variance, double eps, double* scale, double* shift,
                      double* total, double* square) const {
    const int64_t begin = g * (channels_ / groups_), end = (g + 1) * (channels_ / groups_);
    const double deviation = deviation_of(variance, eps);
    double grad_mean = 0, grad_deviation = 0;
    for (int64_t c = begin; c < end; ++c) {
      scale[c] = (scale[c] - shift[c] * mean) / deviation;
      grad_mean -= shift[c] * weight_[c] / deviation;
      grad_deviation -= scale[c] * weight_[c] / deviation;
    }
    const double grad_variance = variance < 0 ? 0 : grad_deviation / (2 * deviation);
    grad_mean -= 2 * mean * grad_variance;
    std::fill(total + begin, total + end, grad_mean / values_in_group(n));
    std::fill(square + begin, square + end, grad_variance / values_in_group(n));
  }

  // grad S = grad sum(R) in the first grid's cells + 2 Q grad sum(R^2), grad Q = |s| grad sum(R) + 2 T grad sum(R^2).
  void cells_backward(int64_t n, int64_t channel, void* scratch, const double* total, const double* square,
                      const Gradients& grads) const {
    const Cells cells = cells_in(scratch);
    const Lanes zero{};
    Lanes grad_total = zero, twice_grad_square = zero;
    for (int64_t i = 0; i < lanes_at(channel); ++i) {
      grad_total.values()[i] = total[i];
      twice_grad_square.values()[i] = 2 * square[i];
    }
    if (codes_.has_value()) {
      read(sums_, n, grids_.cells, channel, cells.sums);
      read(*codes_, n, grids_.cells, channel, cells.codes);
      add_overlaps(grids_, plan(n), cells.codes, cells.sums, cells.line_sums);
    }
    const Table grad_sums(grads.sums);
    for (int64_t s = 0; s < grids_.cells; ++s) {
      Lanes grad = s < grids_.core ? grad_total : zero;
      if (codes_.has_value()) add_product(grad, twice_grad_square, cells.codes[s]);
      grad_sums.write(n, s, channel, lanes_at(channel), grad.values());
    }
    if (!codes_.has_value()) return;
    const Table grad_codes(*grads.codes);
    for (int64_t s = 0; s < grids_.cells; ++s) {
      Lanes grad = zero;
      add_product(grad, plan(n).areas[s], grad_total);
      add_product(grad, twice_grad_square, cells.sums[s]);
      grad_codes.write(n, s, channel, lanes_at(channel), grad.values());
    }
  }

  // Writes the sum over the images of the C values that each has at `offset`.
  void write_sum(const std::vector<double>& by_image, int64_t offset, const Tensor& to) const {
    std::vector<double> sum(channels_, 0.0);
    for (int64_t n = 0; n < images_; ++n) {
      for (int64_t c = 0; c < channels_; ++c) sum[c] += by_image[n * 2 * channels_ + offset + c];
    }
    Table(torch::stable::view(to, {1, channels_})).write(0, 0, 0, channels_, sum.data());
  }

  static double deviation_of(double variance, double eps) { return std::sqrt((variance < 0 ? 0 : variance) + eps); }

  static double sum(const std::vector<double>& values, int64_t begin, int64_t count) {
    double total = 0;
    for (int64_t i = begin; i < begin + count; ++i) total += values[i];
    return total;
  }

  int64_t lanes_at(int64_t channel) const { return std::min(kLanes, channels_ - channel); }
  const Plan& plan(int64_t n) const { return plans_[plan_of_[n]]; }

  double values_in_group(int64_t n) const { return plan(n).pixels * static_cast<double>(channels_ / groups_); }

  Grids grids_;
  Table sums_;
  std::optional<Table> codes_;
  std::vector<double> weight_;
  int64_t images_, channels_, groups_;
  std::vector<Plan> plans_;
  std::vector<size_t> plan_of_;  // of every image: images of one size share theirs
};

std::tuple<Tensor, Tensor, Tensor> region_norm(const Tensor& sums, const Tensor& power, std::optional<Tensor> codes,
                                               const Tensor& weight, const Tensor& bias, std::vector<int64_t> grids,
                                               int64_t groups, int64_t height, int64_t width, double eps,
                                               std::optional<Tensor> valid) {
  Tensor scale = torch::stable::new_empty(weight, {sums.size(0), sums.size(2)});
  Tensor shift = torch::stable::new_empty(weight, {sums.size(0), sums.size(2)});
  Tensor moments = torch::stable::new_empty(sums, {sums.size(0), 2, groups}, ScalarType::Double);
  Norm(sums, codes, weight, grids, groups, height, width, valid).forward(power, bias, eps, scale, shift, moments);
  return {scale, shift, moments};
}

std::vector<Tensor> region_norm_backward(const Tensor& grad_scale, const Tensor& grad_shift, const Tensor& sums,
                                         std::optional<Tensor> codes, const Tensor& weight, const Tensor& moments,
                                         std::vector<int64_t> grids, int64_t height, int64_t width, double eps,
                                         std::optional<Tensor> valid) {
  const int64_t n = sums.size(0), c = sums.size(2);
  Norm::Gradients grads{torch::stable::new_empty(sums, {n, sums.size(1), c}), torch::stable::new_empty(sums, {n, c}),
                        torch::stable::new_empty(weight, {c}), torch::stable::new_empty(weight, {c}), std::nullopt};
  std::vector<Tensor> results{grads.sums, grads.power, grads.weight, grads.bias};
  if (codes.has_value()) {
    grads.codes = torch::stable::new_empty(*codes, {n, sums.size(1), c});
    results.push_back(*grads.codes);
  }
  Norm(sums, codes, weight, grids, moments.size(2), height, width, valid)
      .backward(grad_scale, grad_shift, moments, eps, grads);
  return results;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zigzag, CPU, m) {
  m.impl("region_norm", TORCH_BOX(&region_norm));
  m.impl("region_norm_backward", TORCH_BOX(&region_norm_backward));
}

}  // namespace zigzag
