// region_codes on the CPU: three matrix products per grid, on small tensors and large weights that are read in the
// memory order they have.
#include <algorithm>
#include <cstring>

#include "../geometry.h"
#include "region_codes_products.h"
#include "tensors.h"

namespace zigzag {
namespace {

using Tensors = std::vector<Tensor>;

Tensor as(const Tensor& t, ScalarType dtype) { return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype); }

// Where the numbers of one grid lie in the stacked tensors.
struct Grid {
  int64_t size = 0, cells = 0, taps = 0;
  int64_t first_cell = 0, first_entry = 0, index = 0;
};

struct Shape {
  int64_t images = 0, channels = 0, entries = 0, cells = 0;
  std::vector<Grid> grids;
};

Shape shape_of(const Tensor& sums, const Tensors& parameters, const std::vector<int64_t>& sizes) {
  Shape s{sums.size(0), sums.size(2), sums.size(1), 0, {}};
  int64_t entry = 0;
  for (size_t g = 0; g < sizes.size(); ++g) {
    const Tensor& conv = parameters[6 * g];
    Grid grid{sizes[g], sizes[g] * sizes[g], conv.size(2) * conv.size(3), s.cells, entry, static_cast<int64_t>(g)};
    s.grids.push_back(grid);
    s.cells += grid.cells;
    entry += grid.cells * grid.taps;
  }
  return s;
}

// Does the memory of a weight run over its taps last? (A channels_last one runs over channels last.)
bool taps_last(const Tensor& weight) { return weight.is_contiguous(); }

// The two memory orders of a window: (positions, channels), or transposed. It is divided by `divisor`.
template <class A>
void write_window(const A* from, A* to, int64_t positions, int64_t channels, bool transposed, A divisor) {
  if (!transposed) {
    for (int64_t i = 0; i < positions * channels; ++i) to[i] = from[i] / divisor;
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t p = 0; p < positions; ++p) to[c * positions + p] = from[p * channels + c] / divisor;
  }
}

template <class A>
void read_window(const A* from, A* to, int64_t positions, int64_t channels, bool transposed, A divisor) {
  if (!transposed) return write_window(from, to, positions, channels, false, divisor);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t c = 0; c < channels; ++c) to[p * channels + c] = from[c * positions + p] / divisor;
  }
}

template <class F>
void parallel_rows(int64_t rows, const F& work) {
  torch::stable::parallel_for(0, rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) work(row);
  });
}

// The operation on one accumulation type.
template <class A>
class Codes {
 public:
  Codes(const Tensor& sums, const Tensors& parameters, const std::vector<int64_t>& grids, int64_t height, int64_t width,
        bool mean, const std::optional<Tensor>& valid)
      : sums_(sums),
        parameters_(parameters),
        mean_(mean),
        s_(shape_of(sums, parameters, grids)),
        dtype_(parameters[0].scalar_type()) {
    Map map;
    map.n = s_.images, map.h = height, map.w = width;
    sizes_ = extents(map, valid);
  }

  std::tuple<Tensor, Tensor, Tensor> forward() {
    Tensor codes = make({s_.images, s_.cells, s_.channels});
    Tensor regions = make({s_.images, s_.cells, s_.channels});
    Tensor hidden = make({s_.images, static_cast<int64_t>(s_.grids.size()), s_.channels});
    for (const Grid& grid : s_.grids) {
      convolve(grid, data(regions));
      const Tensor encoded = aggregate(grid, data(regions), data(hidden));
      distribute(grid, encoded, data(codes));
    }
    return {as(codes, dtype_), regions, hidden};
  }

  Tensors backward(const Tensor& grad_codes, const Tensor& regions, const Tensor& hidden) {
    Tensor grad_sums = make({s_.images, s_.entries, s_.channels});
    Tensors grads = {grad_sums};
    grads.resize(1 + parameters_.size(), grad_sums);
    for (const Grid& grid : s_.grids) {
      Tensor* g = &grads[1 + 6 * grid.index];
      const Tensor grad_hidden = distribute_backward(grid, data(grad_codes), data(hidden), g);
      const Tensor grad_regions = aggregate_backward(grid, grad_hidden, data(regions), data(hidden), g);
      convolve_backward(grid, grad_regions, data(grad_sums), g);
    }
    return grads;
  }

 private:
  Tensor make(std::vector<int64_t> sizes) const { return table_like(sums_, std::move(sizes)); }
  static A* data(const Tensor& t) { return static_cast<A*>(t.mutable_data_ptr()); }
  const Tensor& parameter(const Grid& grid, int which) const { return parameters_[6 * grid.index + which]; }

  A area(const Grid& grid, int64_t n, int64_t cell) const {
    return static_cast<A>(cell_length(cell / grid.size, sizes_[n].height, grid.size) *
                          cell_length(cell % grid.size, sizes_[n].width, grid.size));
  }

  // What makes a cell's sums the mean over it where that is asked for; an empty cell's are 0 either way.
  A divisor(const Grid& grid, int64_t n, int64_t cell) const {
    return mean_ ? std::max(area(grid, n, cell), A(1)) : A(1);
  }

  A bias_factor(const Grid& grid, int64_t n, int64_t cell) const {
    return mean_ ? std::min(area(grid, n, cell), A(1)) : area(grid, n, cell);
  }

  const A* cell_row(const A* stacked, const Grid& grid, int64_t n, int64_t cell) const {
    return stacked + (n * s_.cells + grid.first_cell + cell) * s_.channels;
  }

  int64_t sums_row(const Grid& grid, int64_t n, int64_t cell) const {
    return (n * s_.entries + grid.first_entry + cell * grid.taps) * s_.channels;
  }

  // The windows that the region convolution's weight multiplies: one row per image and cell.
  Tensor windows(const Grid& grid) const {
    const int64_t c = s_.channels;
    Tensor rows = make({s_.images * grid.cells, grid.taps * c});
    const bool transposed = taps_last(parameter(grid, 0));
    parallel_rows(s_.images * grid.cells, [&](int64_t row) {
      const int64_t n = row / grid.cells, cell = row % grid.cells;
      write_window<A>(data(sums_) + sums_row(grid, n, cell), data(rows) + row * grid.taps * c, grid.taps, c, transposed,
                      divisor(grid, n, cell));
    });
    return as(rows, dtype_);
  }

  void convolve(const Grid& grid, A* regions) const {
    const Tensor product =
        as(times_transposed(windows(grid), matrix_of(parameter(grid, 0)), &parameter(grid, 2)), acc());
    const Tensor bias = as(parameter(grid, 1), acc());
    const int64_t c = s_.channels;
    for (int64_t row = 0; row < s_.images * grid.cells; ++row) {
      const int64_t n = row / grid.cells, cell = row % grid.cells;
      A* to = const_cast<A*>(cell_row(regions, grid, n, cell));
      const A* from = data(product) + row * c;
      const A* add = data(bias);
      const double factor = bias_factor(grid, n, cell);
      for (int64_t i = 0; i < c; ++i) to[i] = static_cast<A>(from[i] + factor * add[i]);
    }
  }

  // All cells of an image in one row, as the aggregating weight has them.
  Tensor flat_cells(const Grid& grid, const A* stacked, const Tensor& weight) const {
    const int64_t c = s_.channels;
    Tensor rows = make({s_.images, grid.cells * c});
    for (int64_t n = 0; n < s_.images; ++n) {
      write_window<A>(cell_row(stacked, grid, n, 0), data(rows) + n * grid.cells * c, grid.cells, c, taps_last(weight),
                      A(1));
    }
    return as(rows, dtype_);
  }

  Tensor hidden_rows(const Grid& grid, const A* hidden) const {
    const int64_t c = s_.channels, count = static_cast<int64_t>(s_.grids.size());
    Tensor rows = make({s_.images, c});
    for (int64_t n = 0; n < s_.images; ++n) {
      std::memcpy(data(rows) + n * c, hidden + (n * count + grid.index) * c, c * sizeof(A));
    }
    return as(rows, dtype_);
  }

  Tensor aggregate(const Grid& grid, const A* regions, A* hidden) const {
    const Tensor& weight = parameter(grid, 2);
    const Tensor product = as(times_transposed(flat_cells(grid, regions, weight), matrix_of(weight)), acc());
    const Tensor bias = as(parameter(grid, 3), acc());
    const int64_t c = s_.channels, count = static_cast<int64_t>(s_.grids.size());
    for (int64_t n = 0; n < s_.images; ++n) {
      for (int64_t i = 0; i < c; ++i) {
        const A value = data(product)[n * c + i] + data(bias)[i];
        hidden[(n * count + grid.index) * c + i] = value < A(0) ? A(0) : value;
      }
    }
    return hidden_rows(grid, hidden);
  }

  // Adds one row of channels to each of `rows` rows.
  void add_to_rows(const A* row, A* to, int64_t rows) const {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < s_.channels; ++i) to[r * s_.channels + i] += row[i];
    }
  }

  void distribute(const Grid& grid, const Tensor& encoded, A* codes) const {
    const Tensor& weight = parameter(grid, 4);
    const Tensor product = as(times(encoded, matrix_of(weight)), acc());
    const Tensor bias = as(parameter(grid, 5), acc());
    const int64_t c = s_.channels;
    for (int64_t n = 0; n < s_.images; ++n) {
      A* to = const_cast<A*>(cell_row(codes, grid, n, 0));
      read_window<A>(data(product) + n * grid.cells * c, to, grid.cells, c, taps_last(weight), A(1));
      add_to_rows(data(bias), to, grid.cells);
    }
  }

  // The gradient of a bias: `count` rows of C values, each times its factor, summed in double.
  template <class Rows, class Factor>
  Tensor bias_gradient(int64_t count, const Rows& rows, const Factor& factor) const {
    std::vector<double> sum(s_.channels, 0.0);
    for (int64_t row = 0; row < count; ++row) {
      const A* from = rows(row);
      const double weight = factor(row);
      for (int64_t i = 0; i < s_.channels; ++i) sum[i] += weight * from[i];
    }
    Tensor grad = make({s_.channels});
    std::copy(sum.begin(), sum.end(), data(grad));
    return as(grad, dtype_);
  }

  Tensor distribute_backward(const Grid& grid, const A* grad_codes, const A* hidden, Tensor* grads) const {
    const Tensor& weight = parameter(grid, 4);
    const Tensor flat = flat_cells(grid, grad_codes, weight);
    grads[4] = weight_gradient(hidden_rows(grid, hidden), flat, weight);
    grads[5] = bias_gradient(
        s_.images * grid.cells,
        [&](int64_t row) { return cell_row(grad_codes, grid, row / grid.cells, row % grid.cells); }, one);
    return as(times_transposed(flat, matrix_of(weight)), acc());
  }

  // Returns the gradient of the regions, (N, K*K, C).
  Tensor aggregate_backward(const Grid& grid, const Tensor& grad_hidden, const A* regions, const A* hidden,
                            Tensor* grads) const {
    const Tensor& weight = parameter(grid, 2);
    const int64_t c = s_.channels, count = static_cast<int64_t>(s_.grids.size());
    Tensor before = make({s_.images, c});
    for (int64_t n = 0; n < s_.images; ++n) {
      const A* values = hidden + (n * count + grid.index) * c;
      for (int64_t i = 0; i < c; ++i) {
        data(before)[n * c + i] = values[i] <= A(0) ? A(0) : data(grad_hidden)[n * c + i];
      }
    }
    grads[3] = bias_gradient(s_.images, [&](int64_t row) { return data(before) + row * c; }, one);
    const Tensor left = as(before, dtype_);
    grads[2] = weight_gradient(left, flat_cells(grid, regions, weight), weight);
    const Tensor product = as(times(left, matrix_of(weight)), acc());
    Tensor grad_regions = make({s_.images, grid.cells, c});
    for (int64_t n = 0; n < s_.images; ++n) {
      const int64_t at = n * grid.cells * c;
      read_window<A>(data(product) + at, data(grad_regions) + at, grid.cells, c, taps_last(weight), A(1));
    }
    return grad_regions;
  }

  void convolve_backward(const Grid& grid, const Tensor& grad_regions, A* grad_sums, Tensor* grads) const {
    const Tensor& weight = parameter(grid, 0);
    const int64_t c = s_.channels, rows = s_.images * grid.cells;
    grads[1] = bias_gradient(
        rows, [&](int64_t row) { return data(grad_regions) + row * c; },
        [&](int64_t row) { return bias_factor(grid, row / grid.cells, row % grid.cells); });
    const Tensor left = as(torch::stable::view(grad_regions, {rows, c}), dtype_);
    grads[0] = weight_gradient(left, windows(grid), weight);
    const Tensor product = as(times(left, matrix_of(weight)), acc());
    parallel_rows(rows, [&](int64_t row) {
      const int64_t n = row / grid.cells, cell = row % grid.cells;
      read_window<A>(data(product) + row * grid.taps * c, grad_sums + sums_row(grid, n, cell), grid.taps, c,
                     taps_last(weight), divisor(grid, n, cell));
    });
  }

  static double one(int64_t) { return 1.0; }

  ScalarType acc() const { return sums_.scalar_type(); }

  const Tensor& sums_;
  const Tensors& parameters_;
  bool mean_;
  Shape s_;
  ScalarType dtype_;
  std::vector<Extent> sizes_;
};

std::tuple<Tensor, Tensor, Tensor> region_codes(const Tensor& sums, Tensors parameters, std::vector<int64_t> grids,
                                                int64_t height, int64_t width, bool mean, std::optional<Tensor> valid) {
  if (dtype_of(sums) == Dtype::f64) {
    return Codes<double>(sums, parameters, grids, height, width, mean, valid).forward();
  }
  return Codes<float>(sums, parameters, grids, height, width, mean, valid).forward();
}

Tensors region_codes_backward(const Tensor& grad, const Tensor& sums, Tensors parameters, const Tensor& regions,
                              const Tensor& hidden, std::vector<int64_t> grids, int64_t height, int64_t width,
                              bool mean, std::optional<Tensor> valid) {
  if (dtype_of(sums) == Dtype::f64) {
    return Codes<double>(sums, parameters, grids, height, width, mean, valid).backward(grad, regions, hidden);
  }
  return Codes<float>(sums, parameters, grids, height, width, mean, valid).backward(grad, regions, hidden);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(zigzag, CPU, m) {
  m.impl("region_codes", TORCH_BOX(&region_codes));
  m.impl("region_codes_backward", TORCH_BOX(&region_codes_backward));
}

}  // namespace zigzag
