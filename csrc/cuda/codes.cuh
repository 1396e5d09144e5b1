// region_codes' small kernels, which stand between its products: they add up parts and bring values into the memory
// order of the next weight.
#pragma once

#include "dispatch.cuh"

namespace zigzag {
namespace cuda {

constexpr int kCodesThreads = 256;
enum Layer { conv = 0, aggregate = 1, distribute = 2 };

// One grid as kernels see it. Matrices in the order of a weight: `packed` (N, K*K*C) or, for conv, (N*K*K, taps*C).
template <class T>
struct Grid {
  typedef Wide<T> A;
  int size, cells, taps, first_cell;
  int64_t first_entry;
  bool taps_last[3];
  const T* bias[3];
  T* grad_bias[3];
  A* packed[3];  // sums, regions, and the gradient of codes, each in the order of the weight that it meets
  A* parts[3];   // results of products
  int64_t part_count[3];
  A* grad_hidden;   // (N, C)
  A* grad_regions;  // (N * K*K, C)
};

template <class T>
struct Codes {
  typedef Wide<T> A;
  Grid<T> grids[kMostGrids];
  int count, cells;
  int64_t images, channels, entries;
  Sizes sizes;
  bool mean;
  const A *sums, *grad;
  A *regions, *hidden, *grad_sums;
  T* codes;

  __device__ int64_t area(const Grid<T>& grid, int64_t image, int cell) const {
    return cell_length(cell / grid.size, sizes.rows(image), grid.size) *
           cell_length(cell % grid.size, sizes.columns(image), grid.size);
  }
  // What makes a cell's sums the mean over it where that is asked for; an empty cell's are 0 either way.
  __device__ A divisor(const Grid<T>& grid, int64_t image, int cell) const {
    const int64_t pixels = mean ? area(grid, image, cell) : 1;
    return static_cast<A>(pixels > 1 ? pixels : 1);
  }
  __device__ A bias_factor(const Grid<T>& grid, int64_t image, int cell) const {
    const int64_t pixels = area(grid, image, cell);
    return static_cast<A>(mean && pixels > 1 ? 1 : pixels);
  }
};

// Where position p and channel c of a row stand in the order of a weight.
template <class T>
__device__ int64_t packed_at(const Codes<T>& codes, bool taps_last, int64_t row, int positions, int p, int64_t c) {
  return row * positions * codes.channels + (taps_last ? c * positions + p : p * codes.channels + c);
}

template <class T>
__device__ Wide<T> sum_parts(const Wide<T>* parts, int64_t count, int64_t step, int64_t at) {
  Wide<T> sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += parts[i * step + at];
  return sum;
}

// Every kernel below runs over `items` of all grids: (image, cell, channel) and, where it says so, taps.
template <class T>
struct Item {
  const Grid<T>& grid;
  int index;
  int64_t image;
  int cell, tap;
  int64_t channel;
};

template <class T, class Work>
__device__ void for_each(const Codes<T>& codes, bool taps, bool cells, const Work& work) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int g = 0; g < codes.count; ++g) {
    const Grid<T>& grid = codes.grids[g];
    const int inner = taps ? grid.taps : 1, rows = cells ? grid.cells : 1;
    for (int64_t i = thread; i < codes.images * rows * inner * codes.channels; i += step) {
      int64_t rest = i / codes.channels;
      const int64_t channel = i % codes.channels;
      const int tap = static_cast<int>(rest % inner);
      rest /= inner;
      work(Item<T>{grid, g, rest / rows, static_cast<int>(rest % rows), tap, channel});
    }
  }
}

template <class T>
__device__ int64_t entry_at(const Codes<T>& codes, const Item<T>& i) {
  return (i.image * codes.entries + i.grid.first_entry + i.cell * i.grid.taps + i.tap) * codes.channels + i.channel;
}

template <class T>
__device__ int64_t cell_row(const Codes<T>& codes, const Item<T>& i) {
  return (i.image * codes.cells + i.grid.first_cell + i.cell) * codes.channels + i.channel;
}

template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) pack_sums(const __grid_constant__ Codes<T> codes) {
  for_each(codes, true, true, [&](const Item<T>& i) {
    const int64_t row = i.image * i.grid.cells + i.cell;
    i.grid.packed[conv][packed_at(codes, i.grid.taps_last[conv], row, i.grid.taps, i.tap, i.channel)] =
        codes.sums[entry_at(codes, i)] / codes.divisor(i.grid, i.image, i.cell);
  });
}

// regions = the convolution's product + bias, also in the order of the aggregating weight.
template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) finish_regions(const __grid_constant__ Codes<T> codes) {
  typedef Wide<T> A;
  for_each(codes, false, true, [&](const Item<T>& i) {
    const Grid<T>& grid = i.grid;
    const int64_t rows = codes.images * grid.cells, row = i.image * grid.cells + i.cell;
    const A product =
        sum_parts<T>(grid.parts[conv], grid.part_count[conv], rows * codes.channels, row * codes.channels + i.channel);
    const A bias = widen(grid.bias[conv][i.channel]);
    // In double: the area times the bias may be far larger than what is left of the sum.
    const double value = product + static_cast<double>(codes.bias_factor(grid, i.image, i.cell)) * bias;
    codes.regions[cell_row(codes, i)] = static_cast<A>(value);
    grid.packed[aggregate][packed_at(codes, grid.taps_last[aggregate], i.image, grid.cells, i.cell, i.channel)] =
        static_cast<A>(value);
  });
}

template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) finish_hidden(const __grid_constant__ Codes<T> codes) {
  typedef Wide<T> A;
  for_each(codes, false, false, [&](const Item<T>& i) {
    const int64_t at = i.image * codes.channels + i.channel;
    const A value =
        sum_parts<T>(i.grid.parts[aggregate], i.grid.part_count[aggregate], codes.images * codes.channels, at) +
        widen(i.grid.bias[aggregate][i.channel]);
    codes.hidden[(i.image * codes.count + i.index) * codes.channels + i.channel] = value < 0 ? 0 : value;
  });
}

template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) finish_codes(const __grid_constant__ Codes<T> codes) {
  for_each(codes, false, true, [&](const Item<T>& i) {
    const Grid<T>& grid = i.grid;
    const int64_t at = packed_at(codes, grid.taps_last[distribute], i.image, grid.cells, i.cell, i.channel);
    const Wide<T> product = sum_parts<T>(grid.parts[distribute], grid.part_count[distribute],
                                         codes.images * grid.cells * codes.channels, at);
    narrow(product + widen(grid.bias[distribute][i.channel]), codes.codes[cell_row(codes, i)]);
  });
}

// Regions and the codes' gradient in the orders of the weights that they meet.
template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) pack_cells(const __grid_constant__ Codes<T> codes) {
  for_each(codes, false, true, [&](const Item<T>& i) {
    const Grid<T>& grid = i.grid;
    const int64_t from = cell_row(codes, i);
    grid.packed[aggregate][packed_at(codes, grid.taps_last[aggregate], i.image, grid.cells, i.cell, i.channel)] =
        codes.regions[from];
    grid.packed[distribute][packed_at(codes, grid.taps_last[distribute], i.image, grid.cells, i.cell, i.channel)] =
        codes.grad[from];
  });
}

template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) finish_grad_hidden(const __grid_constant__ Codes<T> codes) {
  for_each(codes, false, false, [&](const Item<T>& i) {
    const int64_t at = i.image * codes.channels + i.channel;
    const bool passes = codes.hidden[(i.image * codes.count + i.index) * codes.channels + i.channel] > 0;
    i.grid.grad_hidden[at] = passes ? sum_parts<T>(i.grid.parts[distribute], i.grid.part_count[distribute],
                                                   codes.images * codes.channels, at)
                                    : 0;
  });
}

template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) finish_grad_regions(const __grid_constant__ Codes<T> codes) {
  for_each(codes, false, true, [&](const Item<T>& i) {
    const Grid<T>& grid = i.grid;
    const int64_t at = packed_at(codes, grid.taps_last[aggregate], i.image, grid.cells, i.cell, i.channel);
    grid.grad_regions[(i.image * grid.cells + i.cell) * codes.channels + i.channel] =
        sum_parts<T>(grid.parts[aggregate], grid.part_count[aggregate], codes.images * grid.cells * codes.channels, at);
  });
}

template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) finish_grad_sums(const __grid_constant__ Codes<T> codes) {
  for_each(codes, true, true, [&](const Item<T>& i) {
    const Grid<T>& grid = i.grid;
    const int64_t rows = codes.images * grid.cells;
    const int64_t at =
        packed_at(codes, grid.taps_last[conv], i.image * grid.cells + i.cell, grid.taps, i.tap, i.channel);
    codes.grad_sums[entry_at(codes, i)] =
        sum_parts<T>(grid.parts[conv], grid.part_count[conv], rows * grid.taps * codes.channels, at) /
        codes.divisor(grid, i.image, i.cell);
  });
}

// The gradients of the biases, summed in double. A block: one grid and layer, a few channels.
template <class T>
__global__ void __launch_bounds__(kCodesThreads, 3) sum_biases(const __grid_constant__ Codes<T> codes, int64_t chunks) {
  __shared__ double partial[kCodesThreads];
  const int64_t channel = blockIdx.x % chunks * blockDim.x + threadIdx.x;
  const int layer = static_cast<int>(blockIdx.x / chunks % 3);
  const Grid<T>& grid = codes.grids[blockIdx.x / chunks / 3];
  const bool inside = channel < codes.channels;
  double sum = 0;
  for (int64_t row = threadIdx.y; inside && row < codes.images * (layer == aggregate ? 1 : grid.cells);
       row += blockDim.y) {
    const int64_t at = row * codes.channels + channel;
    if (layer == aggregate) {
      sum += grid.grad_hidden[at];
      continue;
    }
    const int64_t image = row / grid.cells;
    const int cell = static_cast<int>(row % grid.cells);
    sum += layer == conv ? static_cast<double>(codes.bias_factor(grid, image, cell)) * grid.grad_regions[at]
                         : codes.grad[cell_row(codes, Item<T>{grid, 0, image, cell, 0, channel})];
  }
  partial[threadIdx.y * blockDim.x + threadIdx.x] = sum;
  __syncthreads();
  if (!inside || threadIdx.y != 0) return;
  for (unsigned i = 1; i < blockDim.y; ++i) sum += partial[i * blockDim.x + threadIdx.x];
  narrow(static_cast<Wide<T>>(sum), grid.grad_bias[layer][channel]);
}

}  // namespace cuda
}  // namespace zigzag
