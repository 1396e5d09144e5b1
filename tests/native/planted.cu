// Kernels with a planted fault each, to see that the emulation's checks find it. Built into a program of its own.
#include <cstring>

#include "../../csrc/cuda/bulk.cuh"

namespace zigzag {
namespace cuda {
namespace {

constexpr int kThreads = 64;

// Each thread reads what its neighbour wrote: `synchronized` says whether a barrier lies between.
__global__ void shift(const float* from, float* to, bool synchronized) {
  float* const memory = shared_memory<float>();
  const int i = threadIdx.x;
  memory[i] = from[i];
  if (synchronized) __syncthreads();
  to[i] = memory[(i + 1) % kThreads];
}

// One thread writes past the end of the block's shared memory, where `overruns`.
__global__ void fill(float* to, bool overruns) {
  float* const memory = shared_memory<float>();
  const int i = threadIdx.x + (overruns && threadIdx.x == kThreads - 1);
  memory[i] = 1;
  __syncthreads();
  to[threadIdx.x] = memory[threadIdx.x];
}

// Half of the threads reach a barrier.
__global__ void diverge() {
  if (threadIdx.x < kThreads / 2) __syncthreads();
}

// Four values at once.
__global__ void copy(const float* from, float* to) {
  const int i = 4 * threadIdx.x;
  store(to + i, load<4>(from + i));
}

constexpr int kLine = 128, kPixels = 2;

// One thread has two pixels copied, twice into the same place: the first must have been asked for, waited for and, by
// all threads, read.
__global__ void copy_twice(const TileMap map, float* to, bool asked, bool waited, bool read) {
  unsigned char* const memory = aligned_to(kTileAlignment, shared_memory<unsigned char>());
  Arrival* const arrival = reinterpret_cast<Arrival*>(memory + kPixels * kLine);
  const auto fetch = [&] {
    expect(arrival, kPixels * kLine);
    copy_tile(memory, map, 0, 0, 0, 0, arrival);
  };
  if (threadIdx.x == 0) {
    prepare(arrival);
    publish();
    if (asked) fetch();
  }
  __syncthreads();
  if (waited) await(arrival, 0);
  to[threadIdx.x] = reinterpret_cast<const float*>(memory)[threadIdx.x];
  if (!waited) return;
  if (read) __syncthreads();
  if (threadIdx.x == 0) fetch();
  __syncthreads();
  await(arrival, 1);
}

int run(const char* what) {
  std::vector<float> from(4 * kThreads + 1, 1), to(4 * kThreads);
  const dim3 threads = {kThreads, 1, 1};
  const size_t shared = kThreads * sizeof(float);
  const auto is = [&](const char* name) { return std::strcmp(what, name) == 0; };
  if (is("barrier") || is("no-barrier")) {
    launch("shift", shift, 1, threads, shared, nullptr, from.data(), to.data(), is("barrier"));
  } else if (is("overrun") || is("no-overrun")) {
    launch("fill", fill, 1, threads, shared, nullptr, to.data(), is("overrun"));
  } else if (is("aligned") || is("misaligned")) {
    launch("copy", copy, 1, threads, 0, nullptr, from.data() + is("misaligned"), to.data());
  } else if (is("copied") || is("unasked") || is("unawaited") || is("overwritten")) {
    const int64_t sizes[4] = {kLine, kPixels, 1, 1}, strides[3] = {kLine, kPixels * kLine, kPixels * kLine};
    launch("copy_twice", copy_twice, 1, threads, kTileAlignment + kPixels * kLine + sizeof(Arrival), nullptr,
           tile_map(what, from.data(), sizes, strides, kLine, kPixels, sizeof(float)), to.data(), !is("unasked"),
           !is("unawaited"), !is("overwritten"));
  } else {
    launch("diverge", diverge, 1, threads, 0, nullptr);
  }
  return 0;
}

}  // namespace
}  // namespace cuda
}  // namespace zigzag

int main(int count, char** arguments) { return count == 2 ? zigzag::cuda::run(arguments[1]) : 2; }
