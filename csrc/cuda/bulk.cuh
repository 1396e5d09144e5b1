// Bulk copies: one thread has the GPU fetch a row of pixels into shared memory, and others wait until it is there. They
// are instructions of sm_90 and later; a kernel that needs them ends with a trap on what is older.
#pragma once

#include "device.cuh"

#ifdef __CUDACC__
#include <cuda.h>
#endif

namespace zigzag {
namespace cuda {

#ifdef __CUDACC__
typedef uint64_t Arrival;  // counts the bytes that are to arrive, phase after phase; in shared memory
typedef CUtensorMap TileMap;

constexpr int kTileAlignment = 128;  // of what a copy writes

inline CUtensorMapDataType bits_of(int element) {
  return element == 2   ? CU_TENSOR_MAP_DATA_TYPE_UINT16
         : element == 4 ? CU_TENSOR_MAP_DATA_TYPE_UINT32
                        : CU_TENSOR_MAP_DATA_TYPE_UINT64;
}

// The driver's function, found at run time: a library that names it would load on no machine without a driver.
inline decltype(&cuTensorMapEncodeTiled) tile_encoder(const char* what) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found), what);
  if (found != cudaDriverEntryPointSuccess) {
    throw std::runtime_error(std::string("zigzag: ") + what + ": the driver has no bulk copies");
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

inline bool has_bulk_copies(const char* what) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), what);
  // The driver's function wants the device's context, which a thread that has launched nothing may not have yet.
  check(cudaSetDevice(device), what);
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), what);
  return major >= 9;
}

// Sizes: bytes of a pixel, columns, rows, images; strides in bytes from the columns' on. A copy takes `line` bytes of
// `box` neighbouring pixels.
inline TileMap tile_map(const char* what, const void* data, const int64_t (&sizes)[4], const int64_t (&strides)[3],
                        int line, int box, int element) {
  static const auto encode = tile_encoder(what);
  const cuuint64_t extents[4] = {static_cast<cuuint64_t>(sizes[0] / element), static_cast<cuuint64_t>(sizes[1]),
                                 static_cast<cuuint64_t>(sizes[2]), static_cast<cuuint64_t>(sizes[3])};
  const cuuint64_t steps[3] = {static_cast<cuuint64_t>(strides[0]), static_cast<cuuint64_t>(strides[1]),
                               static_cast<cuuint64_t>(strides[2])};
  const cuuint32_t tile[4] = {static_cast<cuuint32_t>(line / element), static_cast<cuuint32_t>(box), 1, 1};
  const cuuint32_t every[4] = {1, 1, 1, 1};
  TileMap map;
  const CUresult error = encode(&map, bits_of(element), 4, const_cast<void*>(data), extents, steps, tile, every,
                                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                                CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (error == CUDA_SUCCESS) return map;
  throw std::runtime_error(std::string("zigzag: ") + what + ": the driver refused a map for bulk copies, error " +
                           std::to_string(error));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define ZIGZAG_SINCE_HOPPER(...) __VA_ARGS__
#else
#define ZIGZAG_SINCE_HOPPER(...) __trap()
#endif

__device__ __forceinline__ uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

// One thread makes an arrival ready, and `publish` shows it to the copies; the block's others see it after a barrier.
__device__ __forceinline__ void prepare(Arrival* arrival) {
  ZIGZAG_SINCE_HOPPER(asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrival)) : "memory"));
}

__device__ __forceinline__ void publish() {
  ZIGZAG_SINCE_HOPPER(asm volatile("fence.proxy.async.shared::cta;" :: : "memory"));
}

// A phase ends when so many bytes have arrived.
__device__ __forceinline__ void expect(Arrival* arrival, int bytes) {
  ZIGZAG_SINCE_HOPPER(asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes) : "memory"));
}

// Pixels past the end of a row arrive as zeros.
__device__ __forceinline__ void copy_tile(unsigned char* to, const TileMap& map, int channel, int column, int row,
                                          int image, Arrival* arrival) {
  ZIGZAG_SINCE_HOPPER(asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared_address(to)),
      "l"(&map), "r"(channel), "r"(column), "r"(row), "r"(image), "r"(shared_address(arrival)) : "memory"));
}

// Until the phase of this parity (0 for the first) has ended.
__device__ __forceinline__ void await(Arrival* arrival, unsigned parity) {
  ZIGZAG_SINCE_HOPPER(
      asm volatile("{\n\t"
                   ".reg .pred arrived;\n\t"
                   "WAIT:\n\t"
                   "mbarrier.try_wait.parity.shared::cta.b64 arrived, [%0], %1;\n\t"
                   "@!arrived bra WAIT;\n\t"
                   "}" ::"r"(shared_address(arrival)),
                   "r"(parity) : "memory"));
}

#undef ZIGZAG_SINCE_HOPPER
#else
using emulation::Arrival;
using emulation::await;
using emulation::copy_tile;
using emulation::expect;
using emulation::kTileAlignment;
using emulation::prepare;
using emulation::publish;
using emulation::TileMap;

inline bool has_bulk_copies(const char*) { return true; }

inline TileMap tile_map(const char*, const void* data, const int64_t (&sizes)[4], const int64_t (&strides)[3], int line,
                        int box, int element) {
  return emulation::tile_map(data, sizes, strides, line, box, element);
}
#endif

}  // namespace cuda
}  // namespace zigzag
