// region_norm, forward and backward, in double: a variance is the difference of two sums. See
// zigzag/ops/region_norm.py for what it computes. A block takes one group of channels of one image; it reads no map.
#include "dispatch.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 128;

// RegionNorm as kernels take it.
struct Norm {
  Table sums, codes, power, weight, bias, scale, shift;
  Table grad_sums, grad_codes, grad_power, grad_weight, grad_bias;
  double *moments, *by_image;
  Grids grids;
  Sizes sizes;
  int64_t images, channels;
  int groups, group_size;
  double eps;
};

__device__ double read(const Table& t, int64_t image, int64_t row, int64_t channel) {
  const int64_t at = image * t.image + row * t.row + channel;
  return t.wide ? static_cast<const double*>(t.data)[at] : static_cast<const float*>(t.data)[at];
}

__device__ void write(const Table& t, int64_t image, int64_t row, int64_t channel, double value) {
  const int64_t at = image * t.image + row * t.row + channel;
  if (t.wide) {
    static_cast<double*>(t.data)[at] = value;
  } else {
    static_cast<float*>(t.data)[at] = static_cast<float>(value);
  }
}

// The rows (or columns) of every line of cells, and which cells of every grid share some with it.
struct Lines {
  int *start, *end;    // per line
  int *first, *after;  // per line and grid

  __device__ int shared(int line, int other) const {
    const int from = start[line] > start[other] ? start[line] : start[other];
    const int to = end[line] < end[other] ? end[line] : end[other];
    return to > from ? to - from : 0;
  }
};

ZIGZAG_HOST_DEVICE inline int lines_integers(const Grids& grids) { return grids.lines * (2 + 2 * grids.count); }

__device__ Lines make_lines(const Grids& grids, int64_t size, int* memory) {
  const Lines lines = {memory, memory + grids.lines, memory + 2 * grids.lines,
                       memory + (2 + grids.count) * grids.lines};
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  for (int i = thread; i < grids.lines * grids.count; i += threads) {
    const int line = i / grids.count, other = i % grids.count;
    int g = 0;
    while (g + 1 < grids.count && line >= grids.first_line[g + 1]) ++g;
    const int64_t start = cell_start(line - grids.first_line[g], size, grids.size[g]);
    const int64_t end = cell_start(line - grids.first_line[g] + 1, size, grids.size[g]);
    if (other == 0) lines.start[line] = static_cast<int>(start), lines.end[line] = static_cast<int>(end);
    const bool empty = start == end;
    lines.first[i] = empty ? 0 : static_cast<int>(cell_of(start, size, grids.size[other]));
    lines.after[i] = empty ? 0 : static_cast<int>(cell_of(end - 1, size, grids.size[other])) + 1;
  }
  return lines;
}

// Where a cell of any grid lies.
struct Cell {
  int row, column;  // lines
};

__device__ Cell cell_at(const Grids& grids, int index) {
  int g = 0;
  while (g + 1 < grids.count && index >= grids.first_cell[g + 1]) ++g;
  const int own = index - grids.first_cell[g];
  return {grids.first_line[g] + own / grids.size[g], grids.first_line[g] + own % grids.size[g]};
}

// T, the sum of R over a cell: S + the codes of all cells times the pixels that they share with it.
__device__ double region_sum(const Norm& norm, const Lines& rows, const Lines& columns, int64_t image, int index,
                             int64_t channel) {
  const Grids& grids = norm.grids;
  const Cell cell = cell_at(grids, index);
  double sum = read(norm.sums, image, index, channel);
  for (int g = 0; g < grids.count; ++g) {
    const int in_row = cell.row * grids.count + g, in_column = cell.column * grids.count + g;
    for (int y = rows.first[in_row]; y < rows.after[in_row]; ++y) {
      double by_row = 0;
      for (int x = columns.first[in_column]; x < columns.after[in_column]; ++x) {
        by_row += columns.shared(cell.column, grids.first_line[g] + x) *
                  read(norm.codes, image, grids.first_cell[g] + y * grids.size[g] + x, channel);
      }
      sum += rows.shared(cell.row, grids.first_line[g] + y) * by_row;
    }
  }
  return sum;
}

// The sum over all threads of a block, in one order; every thread gets it.
__device__ double sum_block(double value, double* memory) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  __syncthreads();
  memory[thread] = value;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) memory[thread] += memory[thread + half];
  }
  __syncthreads();
  return memory[0];
}

__device__ double deviation_of(double variance, double eps) { return sqrt((variance < 0 ? 0 : variance) + eps); }

// What both kernels begin with: the block's image and group, and the lines of its cells.
struct Group {
  int64_t image;
  int group;
  int64_t begin, end;  // channels
  Lines rows, columns;
  double values;   // in the group
  double* memory;  // one value per thread
};

__device__ Group group_of(const Norm& norm) {
  Group own;
  own.image = blockIdx.x / norm.groups;
  own.group = blockIdx.x % norm.groups;
  own.begin = static_cast<int64_t>(own.group) * norm.group_size;
  own.end = own.begin + norm.group_size;
  own.memory = shared_memory<double>();
  int* const integers = reinterpret_cast<int*>(own.memory + blockDim.x * blockDim.y);
  const int64_t height = norm.sizes.rows(own.image), width = norm.sizes.columns(own.image);
  own.rows = make_lines(norm.grids, height, integers);
  own.columns = make_lines(norm.grids, width, integers + lines_integers(norm.grids));
  own.values = static_cast<double>(height * width) * norm.group_size;
  __syncthreads();
  return own;
}

__global__ void __launch_bounds__(kThreads, 4) norm_forward(const __grid_constant__ Norm norm) {
  const Group own = group_of(norm);
  const int core = norm.grids.size[0] * norm.grids.size[0];  // the cells of the first grid make up the image
  double total = 0, square = 0;
  for (int64_t c = own.begin + threadIdx.x; c < own.end; c += blockDim.x) {
    if (threadIdx.y == 0) square += read(norm.power, own.image, 0, c);
    for (int s = threadIdx.y; s < (norm.codes.data ? norm.grids.cells : core); s += blockDim.y) {
      const double plain = read(norm.sums, own.image, s, c);
      const double sum = norm.codes.data ? region_sum(norm, own.rows, own.columns, own.image, s, c) : plain;
      if (s < core) total += sum;
      if (norm.codes.data) square += read(norm.codes, own.image, s, c) * (plain + sum);
    }
  }
  const double mean = sum_block(total, own.memory) / own.values;
  const double variance = sum_block(square, own.memory) / own.values - mean * mean;
  const double deviation = deviation_of(variance, norm.eps);
  if (threadIdx.y != 0) return;
  for (int64_t c = own.begin + threadIdx.x; c < own.end; c += blockDim.x) {
    const double scale = read(norm.weight, 0, 0, c) / deviation;
    write(norm.scale, own.image, 0, c, scale);
    write(norm.shift, own.image, 0, c, read(norm.bias, 0, 0, c) - mean * scale);
  }
  if (threadIdx.x != 0) return;
  norm.moments[own.image * 2 * norm.groups + own.group] = mean;
  norm.moments[(own.image * 2 + 1) * norm.groups + own.group] = variance;
}

__global__ void __launch_bounds__(kThreads, 4) norm_backward(const __grid_constant__ Norm norm) {
  const Group own = group_of(norm);
  const int core = norm.grids.size[0] * norm.grids.size[0];
  const double mean = norm.moments[own.image * 2 * norm.groups + own.group];
  const double variance = norm.moments[(own.image * 2 + 1) * norm.groups + own.group];
  const double deviation = deviation_of(variance, norm.eps);
  double grad_mean = 0, grad_deviation = 0;
  for (int64_t c = own.begin + threadIdx.x; threadIdx.y == 0 && c < own.end; c += blockDim.x) {
    const double shift = read(norm.shift, own.image, 0, c), weight = read(norm.weight, 0, 0, c);
    const double scale = (read(norm.scale, own.image, 0, c) - shift * mean) / deviation;
    norm.by_image[own.image * 2 * norm.channels + c] = scale;
    norm.by_image[(own.image * 2 + 1) * norm.channels + c] = shift;
    grad_mean -= shift * weight / deviation;
    grad_deviation -= scale * weight / deviation;
  }
  grad_deviation = sum_block(grad_deviation, own.memory);
  const double grad_variance = variance < 0 ? 0 : grad_deviation / (2 * deviation);
  const double total = (sum_block(grad_mean, own.memory) - 2 * mean * grad_variance) / own.values;
  const double square = grad_variance / own.values;
  for (int64_t c = own.begin + threadIdx.x; c < own.end; c += blockDim.x) {
    if (threadIdx.y == 0) write(norm.grad_power, own.image, 0, c, square);
    for (int s = threadIdx.y; s < norm.grids.cells; s += blockDim.y) {
      const double code = norm.codes.data ? read(norm.codes, own.image, s, c) : 0;
      write(norm.grad_sums, own.image, s, c, (s < core ? total : 0) + 2 * square * code);
      if (!norm.codes.data) continue;
      const Cell cell = cell_at(norm.grids, s);
      const double area =
          static_cast<double>(own.rows.shared(cell.row, cell.row)) * own.columns.shared(cell.column, cell.column);
      const double sum = region_sum(norm, own.rows, own.columns, own.image, s, c);
      write(norm.grad_codes, own.image, s, c, area * total + 2 * square * sum);
    }
  }
}

// What all images give to weight and bias.
__global__ void __launch_bounds__(kThreads, 4) norm_parameters(const __grid_constant__ Norm norm) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= 2 * norm.channels) return;
  double sum = 0;
  for (int64_t n = 0; n < norm.images; ++n) sum += norm.by_image[n * 2 * norm.channels + i];
  if (i < norm.channels) {
    write(norm.grad_weight, 0, 0, i, sum);
  } else {
    write(norm.grad_bias, 0, 0, i - norm.channels, sum);
  }
}

Norm norm_of(const RegionNorm& a) {
  return {a.sums,
          a.codes,
          a.power,
          a.weight,
          a.bias,
          a.scale,
          a.shift,
          a.grad_sums,
          a.grad_codes,
          a.grad_power,
          a.grad_weight,
          a.grad_bias,
          a.moments,
          a.by_image,
          grids_of(a.grids),
          Sizes{a.valid, a.height, a.width},
          a.images,
          a.channels,
          static_cast<int>(a.groups),
          static_cast<int>(a.channels / a.groups),
          a.eps};
}

size_t group_bytes(const Norm& norm) {
  return kThreads * sizeof(double) + 2 * lines_integers(norm.grids) * sizeof(int);
}

}  // namespace

void region_norm(const RegionNorm& args, Stream stream) {
  const Norm norm = norm_of(args);
  launch("region_norm", norm_forward, norm.images * norm.groups, team_of(norm.group_size, 1, 32, kThreads).shape(),
         group_bytes(norm), cudaStream_t(stream), norm);
}

void region_norm_backward(const RegionNorm& args, Stream stream) {
  const Norm norm = norm_of(args);
  const char* const name = "region_norm_backward";
  launch(name, norm_backward, norm.images * norm.groups, team_of(norm.group_size, 1, 32, kThreads).shape(),
         group_bytes(norm), cudaStream_t(stream), norm);
  launch(name, norm_parameters, ceil_div(2 * norm.channels, kThreads), dim3{kThreads, 1, 1}, 0, cudaStream_t(stream),
         norm);
}

}  // namespace cuda
}  // namespace zigzag
