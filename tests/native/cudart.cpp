// The part of CUDA's runtime that the kernels' host code calls, where there is no GPU: launches go to a function that
// tests give (tests/cuda_ptx.py), which runs what nvcc made of the kernel. CUDA's headers define what emulation.h does,
// so types and numbers are stated here (CUDA 13: driver_types.h, cuda.h, crt/host_runtime.h); enumerations are
// integers.
#include <map>

#include "emulation.h"

namespace {

// Returns how many bulk copies were made.
using Launch = int64_t (*)(const char* name, unsigned blocks, unsigned x, unsigned y, unsigned shared,
                           void** parameters);

constexpr int kSuccess = 0, kInvalidValue = 1, kInvalidResourceHandle = 400, kLaunchFailure = 719,
              kDriverEntryPointSuccess = 0;
constexpr int kMaxDynamicSharedMemorySize = 8;                      // an attribute of kernels
constexpr int kComputeCapabilityMajor = 75;                         // one of devices
constexpr int kMapOfTwoBytes = 1, kMapOfFour = 2, kMapOfEight = 4;  // CUtensorMapDataType
constexpr size_t kMapBytes = 128;                                   // of a CUtensorMap

constexpr int kShared = 227 << 10, kPlainShared = 48 << 10;  // of sm_90 and sm_100
constexpr int kMajor = 10;                                   // what the PTX is for

Launch launch_with = nullptr;
int last = kSuccess;
int64_t before_refusal = -1;  // launches until one is refused

std::map<const void*, const char*>& kernels() {
  static std::map<const void*, const char*> names;
  return names;
}

std::map<const void*, int>& allowed() {
  static std::map<const void*, int> bytes;
  return bytes;
}

struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} pending;

// Refuses what a GPU would, by the emulation's rules.
int encode(void* map, int type, uint32_t, void* data, const uint64_t* extents, const uint64_t* steps,
           const uint32_t* tile, const uint32_t*, int, int, int, int) {
  const int element = type == kMapOfTwoBytes ? 2 : type == kMapOfFour ? 4 : type == kMapOfEight ? 8 : 0;
  if (element == 0) return kInvalidValue;
  const int64_t sizes[4] = {static_cast<int64_t>(extents[0]) * element, static_cast<int64_t>(extents[1]),
                            static_cast<int64_t>(extents[2]), static_cast<int64_t>(extents[3])};
  const int64_t strides[3] = {static_cast<int64_t>(steps[0]), static_cast<int64_t>(steps[1]),
                              static_cast<int64_t>(steps[2])};
  const emulation::TileMap made = emulation::tile_map(data, sizes, strides, static_cast<int>(tile[0]) * element,
                                                      static_cast<int>(tile[1]), element);
  static_assert(sizeof made <= kMapBytes);
  std::memcpy(map, &made, sizeof made);
  return kSuccess;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void zigzag_launch_with(Launch given) { launch_with = given; }

// The launch after so many more fails.
__attribute__((visibility("default"))) void zigzag_refuse_launch(int64_t after) { before_refusal = after; }

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  kernels()[host] = name;
}

int __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = host;
  return kSuccess;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  pending = {grid, block, shared, stream};
  return 0;
}
int __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = pending.grid, *block = pending.block, *shared = pending.shared;
  *static_cast<cudaStream_t*>(stream) = pending.stream;
  return kSuccess;
}

int __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** parameters, size_t shared,
                       cudaStream_t stream) {
  if (before_refusal-- == 0) return last = kLaunchFailure;
  if (stream == nullptr) return last = kInvalidResourceHandle;  // the default one, and never asked for
  const auto leave = allowed().find(kernel);
  const int most = leave == allowed().end() ? kPlainShared : leave->second;
  const bool fits = grid.x > 0 && grid.y == 1 && grid.z == 1 && block.z == 1 && block.x * block.y <= 1024;
  if (!fits || shared > static_cast<size_t>(most)) return last = kInvalidValue;
  ++emulation::machine.launched;
  emulation::machine.copied +=
      launch_with(kernels().at(kernel), grid.x, block.x, block.y, static_cast<unsigned>(shared), parameters);
  return kSuccess;
}

int cudaFuncSetAttribute(const void* kernel, int attribute, int value) {
  if (attribute != kMaxDynamicSharedMemorySize || value > kShared) return kInvalidValue;
  allowed()[kernel] = value;
  return kSuccess;
}
int cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == kComputeCapabilityMajor ? kMajor : kShared;
  return kSuccess;
}
int cudaGetDevice(int* device) {
  *device = 0;
  return kSuccess;
}
int cudaSetDevice(int) { return kSuccess; }
int cudaGetLastError() {
  const int error = last;
  last = kSuccess;
  return error;
}
const char* cudaGetErrorString(int error) {
  return error == kLaunchFailure           ? "unspecified launch failure"
         : error == kInvalidResourceHandle ? "invalid resource handle"
                                           : "invalid argument";
}
int cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long, int* found) {
  if (std::strcmp(name, "cuTensorMapEncodeTiled") != 0) return kInvalidValue;
  *function = reinterpret_cast<void*>(&encode);
  *found = kDriverEntryPointSuccess;
  return kSuccess;
}

}  // extern "C"
