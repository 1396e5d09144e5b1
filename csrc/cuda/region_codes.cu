// region_codes, forward and backward: three products per grid, those of all grids in one launch, and between them the
// small kernels of codes.cuh. See zigzag/ops/region_codes.py.
#include "codes.cuh"
#include "products.cuh"

namespace zigzag {
namespace cuda {
namespace {

// Lays out scratch and makes the descriptions of all products of one call.
template <class T>
class Call {
 public:
  typedef Wide<T> A;

  Call(const RegionCodes& args, bool backward, void* scratch) : args_(args), at_(static_cast<A*>(scratch)) {
    const Grids grids = grids_of(args.grids);
    codes_.count = grids.count, codes_.cells = grids.cells;
    codes_.images = args.images, codes_.channels = args.channels;
    codes_.sizes = {args.valid, args.height, args.width};
    codes_.mean = args.mean;
    codes_.sums = static_cast<const A*>(args.sums), codes_.grad = static_cast<const A*>(args.grad);
    codes_.regions = static_cast<A*>(args.regions), codes_.hidden = static_cast<A*>(args.hidden);
    codes_.grad_sums = static_cast<A*>(args.grad_sums), codes_.codes = static_cast<T*>(args.codes);
    for (int g = 0; g < grids.count; ++g) add_grid(grids, g, backward);
    vectors_ = args.channels % 16 == 0 && aligned(args.hidden);
    for (const Branch& branch : args.branches) {
      for (const void* weight : branch.weight) vectors_ = vectors_ && aligned(weight);
    }
  }

  int64_t values() const { return used_; }

  void forward(cudaStream_t stream) {
    const char* const name = "region_codes";
    run(name, pack_sums<T>, true, stream);
    multiply<true, true>(name, by_transposed(conv), vectors_, stream);
    run(name, finish_regions<T>, false, stream);
    multiply<true, true>(name, by_transposed(aggregate), vectors_, stream);
    run(name, finish_hidden<T>, false, stream);
    multiply<true, false>(name, by(distribute), vectors_, stream);
    run(name, finish_codes<T>, false, stream);
  }

  void backward(cudaStream_t stream) {
    const char* const name = "region_codes_backward";
    run(name, pack_sums<T>, true, stream);
    run(name, pack_cells<T>, false, stream);
    multiply<true, true>(name, by_transposed(distribute), vectors_, stream);
    run(name, finish_grad_hidden<T>, false, stream);
    multiply<true, false>(name, by(aggregate), vectors_, stream);
    run(name, finish_grad_regions<T>, false, stream);
    multiply<true, false>(name, by(conv), vectors_, stream);
    run(name, finish_grad_sums<T>, true, stream);
    multiply<false, false>(name, weight_gradients(), vectors_, stream);
    const Team team = team_of(codes_.channels, 1, 32, kCodesThreads);
    launch(name, sum_biases<T>, codes_.count * 3 * team.chunks, team.shape(), 0, stream, codes_, team.chunks);
  }

 private:
  A* take(int64_t count) {
    A* const from = at_;
    const int64_t whole = (count + 15) / 16 * 16;
    at_ += whole, used_ += whole;
    return from;
  }

  void add_grid(const Grids& grids, int g, bool backward) {
    Grid<T>& grid = codes_.grids[g];
    grid.size = grids.size[g], grid.cells = grid.size * grid.size, grid.first_cell = grids.first_cell[g];
    grid.taps = static_cast<int>(args_.taps[g]);
    grid.first_entry = codes_.entries;
    codes_.entries += int64_t{grid.cells} * grid.taps;
    const int64_t n = args_.images, c = args_.channels;
    for (int layer = 0; layer < 3; ++layer) {
      grid.taps_last[layer] = args_.branches[g].taps_last[layer];
      grid.bias[layer] = static_cast<const T*>(args_.branches[g].bias[layer]);
      grid.grad_bias[layer] = backward ? static_cast<T*>(args_.grads[g].bias[layer]) : nullptr;
    }
    grid.packed[conv] = take(n * grid.cells * grid.taps * c);
    grid.packed[aggregate] = take(n * grid.cells * c);
    grid.packed[distribute] = backward ? take(n * grid.cells * c) : nullptr;
    grid.grad_hidden = backward ? take(n * c) : nullptr;
    grid.grad_regions = backward ? take(n * grid.cells * c) : nullptr;
    for (const Layer layer : {conv, aggregate, distribute}) {
      const bool transposed = backward == (layer == distribute);
      const Product<A, T, A> product = transposed ? transposed_product(grid, g, layer) : plain_product(grid, g, layer);
      grid.part_count[layer] = product.parts();
      grid.parts[layer] = take(product.values());
    }
  }

  int64_t rows(const Grid<T>& grid, Layer layer) const { return args_.images * (layer == conv ? grid.cells : 1); }
  int64_t width(const Grid<T>& grid, Layer layer) const {
    return args_.channels * (layer == conv ? grid.taps : grid.cells);
  }
  const T* weight(int g, Layer layer) const { return static_cast<const T*>(args_.branches[g].weight[layer]); }

  // packed (M, K) times the transpose of the weight (C, K)
  Product<A, T, A> transposed_product(const Grid<T>& grid, int g, Layer layer) const {
    const int64_t deep = width(grid, layer);
    return {grid.packed[layer],
            weight(g, layer),
            grid.parts[layer],
            rows(grid, layer),
            args_.channels,
            deep,
            deep,
            deep,
            kPart,
            0};
  }

  // What stands before a weight (M, C) times the weight (C, K)
  Product<A, T, A> plain_product(const Grid<T>& grid, int g, Layer layer) const {
    const int64_t c = args_.channels, wide = width(grid, layer);
    const A* const left = layer == conv        ? grid.grad_regions
                          : layer == aggregate ? grid.grad_hidden
                                               : codes_.hidden + g * c;
    return {left,
            weight(g, layer),
            grid.parts[layer],
            rows(grid, layer),
            wide,
            c,
            layer == distribute ? codes_.count * c : c,
            wide,
            kPart,
            0};
  }

  Products<A, T, A>& by_transposed(Layer layer) {
    for (int g = 0; g < codes_.count; ++g) products_.at[g] = transposed_product(codes_.grids[g], g, layer);
    products_.count = codes_.count;
    return products_;
  }

  Products<A, T, A>& by(Layer layer) {
    for (int g = 0; g < codes_.count; ++g) products_.at[g] = plain_product(codes_.grids[g], g, layer);
    products_.count = codes_.count;
    return products_;
  }

  // The transpose of what stands before a weight (M, C) times what it meets (M, K), for every weight.
  Products<A, A, T>& weight_gradients() {
    for (int g = 0; g < codes_.count; ++g) {
      const Grid<T>& grid = codes_.grids[g];
      for (const Layer layer : {conv, aggregate, distribute}) {
        const Product<A, T, A> plain = plain_product(grid, g, layer);
        gradients_.at[gradients_.count++] = {plain.left,
                                             grid.packed[layer],
                                             static_cast<T*>(args_.grads[g].weight[layer]),
                                             args_.channels,
                                             width(grid, layer),
                                             rows(grid, layer),
                                             plain.left_step,
                                             width(grid, layer),
                                             0,
                                             0};
      }
    }
    return gradients_;
  }

  template <class Kernel>
  void run(const char* name, Kernel kernel, bool taps, cudaStream_t stream) const {
    int64_t most = 0;
    for (int g = 0; g < codes_.count; ++g) {
      const Grid<T>& grid = codes_.grids[g];
      const int64_t items = codes_.images * grid.cells * (taps ? grid.taps : 1) * codes_.channels;
      most = items > most ? items : most;
    }
    launch(name, kernel, ceil_div(most, kCodesThreads), dim3{kCodesThreads, 1, 1}, 0, stream, codes_);
  }

  const RegionCodes& args_;
  A* at_;
  int64_t used_ = 0;
  Codes<T> codes_ = {};
  Products<A, T, A> products_;
  Products<A, A, T> gradients_;
  bool vectors_ = true;
};

}  // namespace

int64_t region_codes_scratch(const RegionCodes& args, bool backward) {
  int64_t values = 0;
  with_type(args.dtype, [&](auto element) { values = Call<decltype(element)>(args, backward, nullptr).values(); });
  return values;
}

void region_codes(const RegionCodes& args, void* scratch, Stream stream) {
  with_type(args.dtype,
            [&](auto element) { Call<decltype(element)>(args, false, scratch).forward(cudaStream_t(stream)); });
}

void region_codes_backward(const RegionCodes& args, void* scratch, Stream stream) {
  with_type(args.dtype,
            [&](auto element) { Call<decltype(element)>(args, true, scratch).backward(cudaStream_t(stream)); });
}

}  // namespace cuda
}  // namespace zigzag
