// Runs CUDA kernels on the CPU, so that tests need no GPU: the .cu files are compiled by g++ with this header in the
// place of CUDA's. A block's threads are fibers, one running at a time; __syncthreads switches between them. Blocks run
// one after another, in an order that ZIGZAG_EMULATED_ORDER=reversed turns round: no result may depend on it.
//
// What is checked: a barrier that not all threads reach, a vector at an address that is no multiple of its size, and a
// bulk copy that a GPU would not take or that nobody waits for end the process with a message; built with a sanitizer,
// every access out of bounds (shared memory included: each block has its own, of the size asked for) and, by the thread
// sanitizer, every pair of accesses of a block's threads that no barrier separates.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __grid_constant__
#define __shared__ static  // blocks run one after another

// The scheduler is no part of what is tested: its own accesses are invisible to the thread sanitizer.
#define ZIGZAG_SCHEDULER __attribute__((no_sanitize("thread"), noinline))

typedef void* cudaStream_t;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline void __stwb(uint4* to, uint4 value) { *to = value; }

namespace emulation {

constexpr size_t kStack = size_t{256} << 10;
constexpr unsigned kMostThreads = 1024;

enum class State { ready, at_barrier, in_warp, left };  // in_warp: waits for the others of its warp

struct Fiber {
  void* top = nullptr;  // of its stack, while it does not run
  void* stack = nullptr;
  State state = State::left;
  dim3 thread;
  int exchanges = 0;
  void* tsan = nullptr;
  void* asan = nullptr;
};

struct Arrival {
  uint32_t expected;  // bytes that are not there yet
  uint32_t phase;
};

// A map as bulk copies see it: bytes of a pixel, columns, rows, images; a copy takes `line` of one and `box` of the
// other.
struct TileMap {
  const unsigned char* data;
  int64_t sizes[4];
  int64_t strides[3];  // in bytes
  int line, box, element;
};

struct TileCopy {
  Arrival* arrival;
  unsigned char* to;
  const TileMap* map;
  int channel, column, row, image;
};

constexpr unsigned kWarp = 32;
constexpr int kMostCopies = 1024;

// What the threads of a warp hand to each other, the next time in the other half.
struct Exchange {
  uint32_t left[2][kWarp][4], right[2][kWarp][2];
};

struct Machine {
  std::vector<Fiber> fibers;
  Fiber scheduler;
  Fiber* running = nullptr;
  const std::function<void()>* kernel = nullptr;
  void* shared = nullptr;
  dim3 block, block_size, grid_size;
  // What the thread sanitizer knows as before and after: a block's start, its barriers in turn, its end.
  char start = 0, barriers[2] = {}, copy_start = 0, end = 0;
  int turn = 0;
  Exchange exchanges[kMostThreads / kWarp];
  TileCopy copies[kMostCopies];  // on their way
  int copying = 0;
  int64_t copied = 0, launched = 0;  // copies and kernels since the process began
};

inline Machine machine;

// Leaves one stack, whose top it notes, for another. The system's swapcontext asks the kernel for its signal mask each
// time, and a test switches millions of times.
#if defined(__x86_64__)
__attribute__((naked, noinline)) inline void switch_stacks(void**, void*) {
  asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n\t"
      "movq %rsp, (%rdi); movq %rsi, %rsp\n\t"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

constexpr int kSavedRegisters = 6;
#else
#error "the emulation switches stacks on x86-64 alone"
#endif

ZIGZAG_SCHEDULER inline void switch_to(Fiber& from, Fiber& to) {
  machine.running = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.asan, to.stack, kStack);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  switch_stacks(&from.top, to.top);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
#endif
}

#if defined(__SANITIZE_THREAD__)
inline void acquire(char& tag) { __tsan_acquire(&tag); }
inline void release(char& tag) { __tsan_release(&tag); }
#else
inline void acquire(char&) {}
inline void release(char&) {}
#endif

ZIGZAG_SCHEDULER inline void leave(State state) {
  Fiber& fiber = *machine.running;
  fiber.state = state;
  switch_to(fiber, machine.scheduler);
}

// A fiber serves one thread after another.
ZIGZAG_SCHEDULER inline void serve() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    acquire(machine.start);
    (*machine.kernel)();
    release(machine.end);
    leave(State::left);
  }
}

ZIGZAG_SCHEDULER inline void prepare(unsigned threads) {
  if (machine.fibers.empty()) {
    machine.fibers.resize(kMostThreads);
#if defined(__SANITIZE_THREAD__)
    machine.scheduler.tsan = __tsan_get_current_fiber();
#endif
  }
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = machine.fibers[i];
    if (!fiber.stack) {
      fiber.stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      // As switch_stacks leaves it, but for the alignment that a called function finds.
      void** const top = reinterpret_cast<void**>(static_cast<char*>(fiber.stack) + kStack) - 2;
      *top = reinterpret_cast<void*>(&serve);
      fiber.top = top - kSavedRegisters;
#if defined(__SANITIZE_THREAD__)
      fiber.tsan = __tsan_create_fiber(0);
#endif
    }
    const dim3 size = machine.block_size;
    fiber.thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    fiber.state = State::ready;
    fiber.exchanges = 0;
  }
}

// Lets those warps go on whose threads have all met; whether there are any.
ZIGZAG_SCHEDULER inline bool release_warps(unsigned threads) {
  bool any = false;
  for (unsigned first = 0; first < threads; first += kWarp) {
    const unsigned end = first + kWarp < threads ? first + kWarp : threads;
    unsigned met = 0;
    for (unsigned i = first; i < end; ++i) met += machine.fibers[i].state == State::in_warp;
    if (met == 0) continue;
    if (met < kWarp) {
      std::fprintf(stderr, "emulation: %u threads of a warp have come to what all of them do together\n", met);
      std::abort();
    }
    for (unsigned i = first; i < end; ++i) machine.fibers[i].state = State::ready;
    any = true;
  }
  return any;
}

ZIGZAG_SCHEDULER inline void run_block(unsigned threads) {
  prepare(threads);
  release(machine.start);
  for (;;) {
    unsigned left = 0;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = machine.fibers[i];
      if (fiber.state == State::ready) switch_to(machine.scheduler, fiber);
      left += fiber.state == State::left;
    }
    if (left == threads) break;
    if (release_warps(threads)) continue;
    if (left > 0) {
      std::fprintf(stderr, "emulation: %u of %u threads left while the others wait at a barrier\n", left, threads);
      std::abort();
    }
    for (unsigned i = 0; i < threads; ++i) machine.fibers[i].state = State::ready;
    machine.turn ^= 1;
  }
  if (machine.copying > 0) {
    std::fprintf(stderr, "emulation: a block left before its copies arrived\n");
    std::abort();
  }
  acquire(machine.end);
}

ZIGZAG_SCHEDULER inline void launch(unsigned blocks, dim3 threads, size_t shared, const std::function<void()>& kernel,
                                    size_t alignment = 16) {
  const char* order = std::getenv("ZIGZAG_EMULATED_ORDER");
  const bool reversed = order && std::strcmp(order, "reversed") == 0;
  machine.launched += blocks > 0;  // without blocks a GPU launches nothing
  machine.kernel = &kernel;
  machine.block_size = threads;
  machine.grid_size = {blocks, 1, 1};
  for (unsigned i = 0; i < blocks; ++i) {
    machine.block = {reversed ? blocks - 1 - i : i, 0, 0};
    void* allocated = nullptr;
    if (posix_memalign(&allocated, alignment, shared) != 0) std::abort();
    std::unique_ptr<void, decltype(&std::free)> memory(allocated, std::free);
    std::memset(memory.get(), 0xff, shared);  // NaN, as a GPU's is whatever was there before
    machine.shared = memory.get();
    run_block(threads.x * threads.y * threads.z);
  }
}

ZIGZAG_SCHEDULER inline void barrier() {
  char& tag = machine.barriers[machine.turn];
  release(tag);
  leave(State::at_barrier);
  acquire(tag);
}

// A GPU reads and writes a vector at a multiple of its size alone.
inline void check_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes == 0) return;
  std::fprintf(stderr, "emulation: an access to %zu bytes at %p, which is no multiple of that\n", bytes, at);
  std::abort();
}

}  // namespace emulation

#include "emulated_units.h"

#define threadIdx (emulation::machine.running->thread)
#define blockIdx (emulation::machine.block)
#define blockDim (emulation::machine.block_size)
#define gridDim (emulation::machine.grid_size)

inline void __syncthreads() { emulation::barrier(); }

// --- the types that the host's compiler has not ----------------------------------------------------------------------

struct __nv_bfloat16 {
  uint16_t bits;
};

struct __half {
  _Float16 value;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t word = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16)};
}

inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }
