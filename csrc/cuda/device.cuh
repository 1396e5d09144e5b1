// What all CUDA kernels rest on: element types, 16-byte accesses, launches. No torch header is in reach of a kernel.
// Tests compile the same files with g++ and tests/native/emulation.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "emulation.h"
#endif

#include "../geometry.h"
#include "../rounding.h"

namespace zigzag {
namespace cuda {

// --- launches --------------------------------------------------------------------------------------------------------

// Blocks are numbered along one axis: the others end at 65,535.
inline unsigned checked_blocks(int64_t blocks) {
  if (blocks >= int64_t{1} << 31) throw std::runtime_error("zigzag: more blocks than a GPU can launch");
  return static_cast<unsigned>(blocks);
}

// What a block takes where it can: there on every GPU since sm_80, and so the emulation's limit.
constexpr size_t kShared = size_t{96} << 10;

inline void check_shared(const char* name, size_t bytes, size_t most) {
  if (bytes <= most) return;
  throw std::runtime_error(std::string("zigzag: ") + name +
                           ": grids must be fewer or coarser on this GPU: a block needs " + std::to_string(bytes) +
                           " bytes of shared memory for them, and has " + std::to_string(most));
}

#ifdef __CUDACC__
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next launch, however good, finds this error
  throw std::runtime_error(std::string("zigzag: ") + what + ": " + cudaGetErrorString(error));
}

// Of what a block may ask for, this much needs no leave.
constexpr size_t kPlainShared = size_t{48} << 10;

// What a block of the current device may ask for.
inline size_t most_shared(const char* what) {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), what);
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), what);
  return static_cast<size_t>(bytes);
}

template <class Kernel, class... Args>
void launch(const char* name, Kernel kernel, int64_t blocks, dim3 threads, size_t shared, cudaStream_t stream,
            const Args&... args) {
  if (blocks == 0) return;
  if (shared > kPlainShared) {
    const size_t most = most_shared(name);
    check_shared(name, shared, most);
    // The most there is, whatever this launch takes: another thread may launch the same kernel with more.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most)), name);
  }
  kernel<<<checked_blocks(blocks), threads, shared, stream>>>(args...);
  check(cudaGetLastError(), name);
}

__device__ __forceinline__ void check_aligned(const void*, size_t) {}  // the device does

template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}
#else
template <class Kernel, class... Args>
void launch(const char* name, Kernel kernel, int64_t blocks, dim3 threads, size_t shared, cudaStream_t,
            const Args&... args) {
  check_shared(name, shared, kShared);
  emulation::launch(checked_blocks(blocks), threads, shared, [&] { kernel(args...); });
}

template <class T>
T* shared_memory() {
  return static_cast<T*>(emulation::machine.shared);
}

using emulation::check_aligned;
#endif

// The first address from `at` on that is a multiple of `bytes`, a power of two.
__device__ __forceinline__ unsigned char* aligned_to(uintptr_t bytes, unsigned char* at) {
  return at + (-reinterpret_cast<uintptr_t>(at) & (bytes - 1));
}

// --- element types ---------------------------------------------------------------------------------------------------

// The type that values of T are computed in.
template <class T>
struct Accumulator {
  typedef float type;
};
template <>
struct Accumulator<double> {
  typedef double type;
};
template <class T>
using Wide = typename Accumulator<T>::type;

__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }

__device__ __forceinline__ void narrow(double v, double& to) { to = v; }
__device__ __forceinline__ void narrow(double v, float& to) { to = static_cast<float>(v); }
__device__ __forceinline__ void narrow(float v, float& to) { to = v; }
__device__ __forceinline__ void narrow(float v, __nv_bfloat16& to) { to = __float2bfloat16_rn(v); }
__device__ __forceinline__ void narrow(float v, __half& to) { to = __float2half_rn(v); }

__device__ __forceinline__ float dithered_for(__nv_bfloat16, float v, uint32_t phase) {
  return dithered_bfloat(v, phase);
}
__device__ __forceinline__ float dithered_for(__half, float v, uint32_t phase) { return dithered_half(v, phase); }

// --- vectors: V neighbouring channels --------------------------------------------------------------------------------

template <class T>
constexpr int kFull = 16 / static_cast<int>(sizeof(T));  // elements of one 16-byte access

template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Pack {
  T at[V];
};

template <class A, int V>
struct Vec {
  A at[V];
};

template <class A, int V>
__device__ __forceinline__ Vec<A, V> splat(A value) {
  Vec<A, V> v;
#pragma unroll
  for (int i = 0; i < V; ++i) v.at[i] = value;
  return v;
}

template <class T, int V>
__device__ __forceinline__ Pack<T, V> fetch(const T* from) {
  check_aligned(from, alignof(Pack<T, V>));
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

__device__ __forceinline__ uint4 fetch_bits(const void* from) {
  check_aligned(from, sizeof(uint4));
  return *static_cast<const uint4*>(from);
}

template <class T, int V>
__device__ __forceinline__ Vec<Wide<T>, V> widen(const Pack<T, V>& pack) {
  Vec<Wide<T>, V> v;
#pragma unroll
  for (int i = 0; i < V; ++i) v.at[i] = widen(pack.at[i]);
  return v;
}

template <int V, class T>
__device__ __forceinline__ Vec<Wide<T>, V> load(const T* from) {
  return widen<T, V>(fetch<T, V>(from));
}

template <class T, int V>
__device__ __forceinline__ Pack<T, V> packed(const Vec<Wide<T>, V>& v) {
  Pack<T, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) narrow(v.at[i], pack.at[i]);
  return pack;
}

template <class T, class A, int V>
__device__ __forceinline__ void store(T* to, const Vec<A, V>& v) {
  check_aligned(to, alignof(Pack<T, V>));
  *reinterpret_cast<Pack<T, V>*>(to) = packed<T>(v);
}

// The same to a map, in global memory. Left to itself, the compiler stores elements one by one.
template <class T, class A, int V>
__device__ __forceinline__ void write(T* to, const Vec<A, V>& v) {
  if constexpr (sizeof(Pack<T, V>) == sizeof(uint4)) {
    check_aligned(to, sizeof(uint4));
    __stwb(reinterpret_cast<uint4*>(to), __builtin_bit_cast(uint4, packed<T>(v)));
  } else {
    store(to, v);
  }
}

// a * b + c, rounded once, wherever that is wanted: compilers are told not to fuse by themselves.
__device__ __forceinline__ float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return fma(a, b, c); }

// to += v
template <class A, int V>
__device__ __forceinline__ void add(Vec<A, V>& to, const Vec<A, V>& v) {
#pragma unroll
  for (int i = 0; i < V; ++i) to.at[i] += v.at[i];
}

// to += factor * v
template <class A, int V>
__device__ __forceinline__ void add(Vec<A, V>& to, A factor, const Vec<A, V>& v) {
#pragma unroll
  for (int i = 0; i < V; ++i) to.at[i] = fused(factor, v.at[i], to.at[i]);
}

// to += u * v
template <class A, int V>
__device__ __forceinline__ void add(Vec<A, V>& to, const Vec<A, V>& u, const Vec<A, V>& v) {
#pragma unroll
  for (int i = 0; i < V; ++i) to.at[i] = fused(u.at[i], v.at[i], to.at[i]);
}

// to *= v
template <class A, int V>
__device__ __forceinline__ void multiply(Vec<A, V>& to, const Vec<A, V>& v) {
#pragma unroll
  for (int i = 0; i < V; ++i) to.at[i] *= v.at[i];
}

// --- blocks of threads: lanes along the channels, workers along something else
// ------------------------------------------

struct Team {
  int lanes, workers;
  int64_t chunks;  // that the channels are cut into, `lanes` vectors each

  int64_t threads() const { return static_cast<int64_t>(lanes) * workers; }
  dim3 shape() const { return {static_cast<unsigned>(lanes), static_cast<unsigned>(workers), 1}; }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// At most `widest` lanes (a power of two), and as many workers as make `threads` with them.
inline Team team_of(int64_t channels, int vector, int widest, int threads) {
  const int64_t vectors = ceil_div(channels, vector);
  int lanes = widest;
  while (lanes > 1 && lanes / 2 >= vectors) lanes /= 2;
  return {lanes, threads / lanes, ceil_div(vectors, lanes)};
}

// --- what crosses from the bindings into the kernels
// -------------------------------------------------------------------

// A (N, C, H, W) map; strides are in elements. `data` is null for a map that is not there.
template <class T>
struct MapOf {
  T* data;
  int64_t n, sc, sh, sw;  // n: the stride of images

  __device__ __forceinline__ T* pixel(int64_t image, int64_t h, int64_t w, int64_t channel) const {
    return data + image * n + h * sh + w * sw + channel * sc;
  }
};

// Every image's own height and width in a padded batch; `valid` (N, 2) is null where all fill their maps.
struct Sizes {
  const int64_t* valid;
  int64_t height, width;

  __device__ __forceinline__ int64_t rows(int64_t image) const {
    return valid ? clamp_to(valid[2 * image], 1, height) : height;
  }
  __device__ __forceinline__ int64_t columns(int64_t image) const {
    return valid ? clamp_to(valid[2 * image + 1], 1, width) : width;
  }
};

constexpr int kMostGrids = 8;

// The grids of one call: K of each, and where its cells and lines lie among those of all.
struct Grids {
  int count = 0;
  int size[kMostGrids] = {};
  int first_cell[kMostGrids] = {};
  int first_line[kMostGrids] = {};
  int cells = 0;  // sum of K*K
  int lines = 0;  // sum of K

  void push(int64_t k) {
    if (count == kMostGrids) throw std::runtime_error("zigzag: grids must be at most 8 on a GPU");
    size[count] = static_cast<int>(k);
    first_cell[count] = cells;
    first_line[count++] = lines;
    cells += static_cast<int>(k * k);
    lines += static_cast<int>(k);
  }
};

}  // namespace cuda
}  // namespace zigzag
