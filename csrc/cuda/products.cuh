// Products of region_codes: skinny matrices times large weights, each weight read once, in the memory order it has and
// in its own type. Several products share a launch. A long sum may be cut into parts of one length, whatever the number
// of rows, so that an image's results do not depend on its batch-mates; whoever reads such a result adds its parts up.
#pragma once

#include "device.cuh"

namespace zigzag {
namespace cuda {

constexpr int kProductThreads = 256;
constexpr int kDepth = 32;    // terms of a sum between two barriers
constexpr int kShort = 8;     // terms that are summed before they are added to the rest: float32 errs less
constexpr int kPart = 512;    // terms of a part, where a sum is cut
constexpr int kColumns = 64;  // of a tile
constexpr int kMostProducts = 3 * kMostGrids;

// out[part][i][j] = sum of left[i][k] right[k][j] over the part's k. Each operand lies row by row or column by column.
template <class L, class R, class O>
struct Product {
  const L* left;
  const R* right;
  O* out;
  int64_t rows, columns, depth;
  int64_t left_step, right_step;  // elements between neighbouring rows (or columns) of an operand
  int64_t part;                   // terms of a part; 0: the sum is whole, since nobody adds parts up
  int64_t first_block;

  int64_t parts() const { return part > 0 ? ceil_div(depth, part) : 1; }
  int64_t values() const { return parts() * rows * columns; }
  int64_t blocks(int tile) const { return ceil_div(rows, tile) * ceil_div(columns, kColumns) * parts(); }
};

template <class L, class R, class O>
struct Products {
  Product<L, R, O> at[kMostProducts];
  int count = 0;
};

// One operand's tile [k][outer] into shared memory, zeros where the matrix ends. `deep`: k is what lies side by side.
template <int V, bool deep, int outer, class T>
__device__ __forceinline__ void load_tile(const T* from, int64_t step, int64_t first_outer, int64_t end_outer,
                                          int64_t first_k, int64_t end_k, Wide<T>* tile) {
  typedef Wide<T> A;
  constexpr int along = (deep ? kDepth : outer) / V, across = deep ? outer : kDepth;
  for (int i = threadIdx.x; i < along * across; i += kProductThreads) {
    const int near = i % along * V, far = i / along;
    const int64_t k = first_k + (deep ? near : far), o = first_outer + (deep ? far : near);
    Vec<A, V> values = splat<A, V>(0);
    if (k < end_k && o < end_outer) values = load<V>(from + (deep ? o * step + k : k * step + o));
#pragma unroll
    for (int v = 0; v < V; ++v) {
      tile[deep ? (near + v) * (outer + 1) + far : far * (outer + 1) + near + v] = values.at[v];
    }
  }
}

// V: elements of one access of the right operand; a left operand in its own type takes as many as 16 bytes hold.
template <class L, class R, class O, bool vectors, bool left_deep, bool right_deep, int kRows>
__global__ void __launch_bounds__(kProductThreads, 2)
    multiply_tiles(const __grid_constant__ Products<L, R, O> products) {
  typedef Wide<R> A;
  constexpr int per_thread = kRows / 16;
  __shared__ A left[kDepth * (kRows + 1)];
  __shared__ A right[kDepth * (kColumns + 1)];
  int p = 0;
  while (p + 1 < products.count && blockIdx.x >= products.at[p + 1].first_block) ++p;
  const Product<L, R, O>& own = products.at[p];
  const int64_t row_tiles = (own.rows + kRows - 1) / kRows, column_tiles = (own.columns + kColumns - 1) / kColumns;
  int64_t rest = blockIdx.x - own.first_block;
  const int64_t first_row = rest % row_tiles * kRows;
  rest /= row_tiles;
  const int64_t first_column = rest % column_tiles * kColumns, part = rest / column_tiles;
  const int64_t first_k = part * own.part;
  const int64_t end_k = own.part > 0 && first_k + own.part < own.depth ? first_k + own.part : own.depth;
  const int row = threadIdx.x / 16 * per_thread, column = threadIdx.x % 16;
  A total[per_thread][4] = {};
  for (int64_t k = first_k; k < end_k; k += kDepth) {
    __syncthreads();
    load_tile<vectors ? kFull<L> : 1, left_deep, kRows>(own.left, own.left_step, first_row, own.rows, k, end_k, left);
    load_tile<vectors ? kFull<R> : 1, right_deep, kColumns>(own.right, own.right_step, first_column, own.columns, k,
                                                            end_k, right);
    __syncthreads();
#pragma unroll 1
    for (int first = 0; first < kDepth; first += kShort) {
      A sum[per_thread][4] = {};
#pragma unroll
      for (int i = first; i < first + kShort; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const A value = right[i * (kColumns + 1) + column + 16 * c];
#pragma unroll
          for (int r = 0; r < per_thread; ++r) {
            sum[r][c] = fused(left[i * (kRows + 1) + row + r], value, sum[r][c]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < per_thread; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) total[r][c] += sum[r][c];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < per_thread; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int64_t i = first_row + row + r, j = first_column + column + 16 * c;
      if (i < own.rows && j < own.columns) narrow(total[r][c], own.out[(part * own.rows + i) * own.columns + j]);
    }
  }
}

template <bool left_deep, bool right_deep, class L, class R, class O>
void multiply(const char* name, Products<L, R, O>& products, bool vectors, cudaStream_t stream) {
  int64_t rows = 0, blocks = 0;
  for (int p = 0; p < products.count; ++p) rows = products.at[p].rows > rows ? products.at[p].rows : rows;
  const int tile = rows <= 32 ? 16 : 64;
  for (int p = 0; p < products.count; ++p) {
    products.at[p].first_block = blocks;
    blocks += products.at[p].blocks(tile);
  }
  const dim3 threads = {kProductThreads, 1, 1};
  const auto run = [&](auto kernel) { launch(name, kernel, blocks, threads, 0, stream, products); };
  if (vectors && tile == 16) return run(multiply_tiles<L, R, O, true, left_deep, right_deep, 16>);
  if (vectors) return run(multiply_tiles<L, R, O, true, left_deep, right_deep, 64>);
  if (tile == 16) return run(multiply_tiles<L, R, O, false, left_deep, right_deep, 16>);
  run(multiply_tiles<L, R, O, false, left_deep, right_deep, 64>);
}

}  // namespace cuda
}  // namespace zigzag
