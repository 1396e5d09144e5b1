// Products of region_codes on tensor cores, where weights, or what is computed, have two bytes. They multiply in tf32,
// ten bits after the point: a weight of two bytes has no more, and a float is taken in two parts, which have 21
// together. What is added is cut off where products.cuh's tiles round: some 1e-7 of a sum, far below a step of such a
// type.
#pragma once

#include "device.cuh"

namespace zigzag {
namespace cuda {

constexpr int kProductThreads = 256;
constexpr int kDepth = 32;  // terms of a sum between two barriers; here so many are summed before they join the rest

#ifdef __CUDACC__
// Rounded to nearest, as the bits of a float.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// A warp's 16 x 8 of sums += 16 x 8 times 8 x 8. Thread 4i + j has rows i and i + 8: of the sums columns 2j and 2j + 1,
// of the left factor columns j and j + 4, row by row; of the right one rows j and j + 4 of column i.
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}
#else
using emulation::multiply_add;
using emulation::to_tf32;
#endif

// Both parts of a float; what has no second part has 0. An infinite float that is split may make NaN of a sum, as a
// part that it meets, or its own second part, is 0.
__device__ __forceinline__ void split(float value, uint32_t& high, uint32_t& low) {
  high = to_tf32(value) & ~0x1fffu;  // PTX leaves open what the other bits are
  const float near = __builtin_bit_cast(float, high);
  low = to_tf32(near == value ? 0.f : value - near);
}

// A tile [k][outer] of floats in shared memory. What lies side by side in memory does so here, and strides are such
// that the threads of a warp read a fragment from 32 banks.
template <bool deep, int outer>
struct FragmentTile {
  static constexpr int step = deep ? kDepth + 4 : outer + 8;
  static constexpr int values = (deep ? outer : kDepth) * step;

  static __device__ __forceinline__ int at(int k, int o) { return deep ? o * step + k : k * step + o; }
};

// A thread's share of one operand's tile, on its way from global to shared memory; zeros where the matrix ends.
template <class T, bool deep, int outer>
struct Share {
  static constexpr int V = kFull<T>;
  static constexpr int along = (deep ? kDepth : outer) / V, across = deep ? outer : kDepth;
  static constexpr int count = (along * across + kProductThreads - 1) / kProductThreads;
  Pack<T, V> packs[count];

  __device__ __forceinline__ void fetch(const T* from, int64_t step, int64_t first_outer, int64_t end_outer,
                                        int64_t first_k, int64_t end_k) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int item = threadIdx.x + i * kProductThreads, near = item % along * V, far = item / along;
      const int64_t k = first_k + (deep ? near : far), o = first_outer + (deep ? far : near);
      packs[i] = Pack<T, V>{};
      if (far < across && k < end_k && o < end_outer) {
        packs[i] = cuda::fetch<T, V>(from + (deep ? o * step + k : k * step + o));
      }
    }
  }

  __device__ __forceinline__ void put(float* tile) const {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int item = threadIdx.x + i * kProductThreads, near = item % along * V, far = item / along;
      if (far < across)
        store(tile + FragmentTile<deep, outer>::at(deep ? near : far, deep ? far : near), widen<T, V>(packs[i]));
    }
  }
};

// The sums of one warp over a tile's depth: 16 rows from `row` on, `count` times 8 columns from `column` on.
template <bool left_deep, bool right_deep, int kRows, int kColumns, bool exact, int count>
__device__ __forceinline__ void multiply_tile(const float* left, const float* right, int row, int column,
                                              float (&total)[count][4]) {
  const int lane = threadIdx.x % 32, outer = lane / 4, inner = lane % 4;
  float sums[count][4] = {};
#pragma unroll
  for (int k = inner; k < kDepth; k += 8) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      split(left[FragmentTile<left_deep, kRows>::at(k + i / 2 * 4, row + outer + i % 2 * 8)], high[i], low[i]);
    }
#pragma unroll
    for (int c = 0; c < count; ++c) {
      uint32_t own[2], rest[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float value = right[FragmentTile<right_deep, kColumns>::at(k + i * 4, column + c * 8 + outer)];
        if constexpr (exact) {
          own[i] = __builtin_bit_cast(uint32_t, value);
        } else {
          split(value, own[i], rest[i]);
        }
      }
      if constexpr (!exact) multiply_add(sums[c], high, rest);
      multiply_add(sums[c], low, own);
      multiply_add(sums[c], high, own);
    }
  }
#pragma unroll
  for (int c = 0; c < count; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) total[c][i] += sums[c][i];
  }
}

}  // namespace cuda
}  // namespace zigzag
