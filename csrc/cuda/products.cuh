// Products of region_codes: skinny matrices times large weights, each weight read once, in the memory order it has and
// in its own type. Several products share a launch. A long sum may be cut into parts of one length, whatever the number
// of rows, so that an image's results do not depend on its batch-mates; whoever reads such a result adds its parts up.
#pragma once

#include "fragments.cuh"

namespace zigzag {
namespace cuda {

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

// What a block computes: a tile of one product's result, of one part of its sum.
template <class L, class R, class O>
struct Tile {
  const Product<L, R, O>& own;
  int64_t first_row, first_column, part, first_k, end_k;

  template <class Value>
  __device__ __forceinline__ void keep(int64_t row, int64_t column, Value value) const {
    const int64_t i = first_row + row, j = first_column + column;
    if (i < own.rows && j < own.columns) narrow(value, own.out[(part * own.rows + i) * own.columns + j]);
  }
};

template <int kRows, class L, class R, class O>
__device__ __forceinline__ Tile<L, R, O> tile_of(const Products<L, R, O>& products) {
  int p = 0;
  while (p + 1 < products.count && blockIdx.x >= products.at[p + 1].first_block) ++p;
  const Product<L, R, O>& own = products.at[p];
  const int64_t row_tiles = (own.rows + kRows - 1) / kRows, column_tiles = (own.columns + kColumns - 1) / kColumns;
  const int64_t block = blockIdx.x - own.first_block, rest = block / row_tiles, part = rest / column_tiles;
  const int64_t first_k = part * own.part;
  const int64_t end_k = own.part > 0 && first_k + own.part < own.depth ? first_k + own.part : own.depth;
  return {own, block % row_tiles * kRows, rest % column_tiles * kColumns, part, first_k, end_k};
}

// V: elements of one access of the right operand; a left operand in its own type takes as many as 16 bytes hold.
template <class L, class R, class O, bool vectors, bool left_deep, bool right_deep, int kRows>
__global__ void __launch_bounds__(kProductThreads, 2)
    multiply_tiles(const __grid_constant__ Products<L, R, O> products) {
  typedef Wide<R> A;
  constexpr int per_thread = kRows / 16;
  __shared__ A left[kDepth * (kRows + 1)];
  __shared__ A right[kDepth * (kColumns + 1)];
  const Tile<L, R, O> tile = tile_of<kRows>(products);
  const Product<L, R, O>& own = tile.own;
  const int row = threadIdx.x / 16 * per_thread, column = threadIdx.x % 16;
  A total[per_thread][4] = {};
  for (int64_t k = tile.first_k; k < tile.end_k; k += kDepth) {
    __syncthreads();
    load_tile<vectors ? kFull<L> : 1, left_deep, kRows>(own.left, own.left_step, tile.first_row, own.rows, k,
                                                        tile.end_k, left);
    load_tile<vectors ? kFull<R> : 1, right_deep, kColumns>(own.right, own.right_step, tile.first_column, own.columns,
                                                            k, tile.end_k, right);
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
    for (int c = 0; c < 4; ++c) tile.keep(row + r, column + 16 * c, total[r][c]);
  }
}

// The same on tensor cores. A tile is on its way from memory while the one before it is multiplied.
template <class L, class R, class O, bool left_deep, bool right_deep, int kRows>
__global__ void __launch_bounds__(kProductThreads, 2)
    multiply_fragments(const __grid_constant__ Products<L, R, O> products) {
  constexpr int row_warps = kRows / 16, column_warps = kProductThreads / 32 / row_warps;
  constexpr int count = kColumns / 8 / column_warps;
  alignas(16) __shared__ float left[FragmentTile<left_deep, kRows>::values];
  alignas(16) __shared__ float right[FragmentTile<right_deep, kColumns>::values];
  const Tile<L, R, O> tile = tile_of<kRows>(products);
  const Product<L, R, O>& own = tile.own;
  const int warp = threadIdx.x / 32, row = warp % row_warps * 16, column = warp / row_warps * count * 8;
  Share<L, left_deep, kRows> next_left;
  Share<R, right_deep, kColumns> next_right;
  const auto fetch = [&](int64_t k) {
    next_left.fetch(own.left, own.left_step, tile.first_row, own.rows, k, tile.end_k);
    next_right.fetch(own.right, own.right_step, tile.first_column, own.columns, k, tile.end_k);
  };
  float total[count][4] = {};
  fetch(tile.first_k);
  for (int64_t k = tile.first_k; k < tile.end_k; k += kDepth) {
    __syncthreads();
    next_left.put(left);
    next_right.put(right);
    __syncthreads();
    fetch(k + kDepth);
    multiply_tile<left_deep, right_deep, kRows, kColumns, sizeof(R) == 2>(left, right, row, column, total);
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < count; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      tile.keep(row + lane / 4 + i / 2 * 8, column + c * 8 + lane % 4 * 2 + i % 2, total[c][i]);
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
  if constexpr (sizeof(R) == 2 || sizeof(O) == 2) {
    if (vectors && tile == 16) return run(multiply_fragments<L, R, O, left_deep, right_deep, 16>);
    if (vectors) return run(multiply_fragments<L, R, O, left_deep, right_deep, 64>);
  } else {
    if (vectors && tile == 16) return run(multiply_tiles<L, R, O, true, left_deep, right_deep, 16>);
    if (vectors) return run(multiply_tiles<L, R, O, true, left_deep, right_deep, 64>);
  }
  if (tile == 16) return run(multiply_tiles<L, R, O, false, left_deep, right_deep, 16>);
  run(multiply_tiles<L, R, O, false, left_deep, right_deep, 64>);
}

}  // namespace cuda
}  // namespace zigzag
