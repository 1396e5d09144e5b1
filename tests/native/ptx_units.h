// Memory, what the threads of a warp do together, and tensor cores, for ptx.h, which includes this.
//
// What is checked: every access to global memory lies within one of the ranges that `run` was given, if any (Triton's
// kernels' tensors; CUDA's have none), to shared memory within what was asked for, at a multiple of its size; what
// comes by cp.async is NaN until it is waited for; the threads of a warp meet at one instruction.
#pragma once

#include <utility>
#include <vector>

#include "ptx.h"

namespace ptx {

// --- memory ---------------------------------------------------------------------------------------------------------

struct Range {
  uint64_t begin, end;
};
static const Range* tensors;
static unsigned tensor_count;
static uint64_t shared_bytes;
constexpr uint64_t kAperture = uint64_t{1} << 60;  // where shared memory begins among all addresses
constexpr size_t kSharedAlignment = 1024;

[[noreturn, gnu::noinline, gnu::cold]] inline void stray(const char* memory, uint64_t address, size_t bytes) {
  std::fprintf(stderr, "ptx: an access to %zu bytes at %#lx of %s memory, outside of what the kernel was given\n",
               bytes, static_cast<unsigned long>(address), memory);
  std::abort();
}

inline void* global(uint64_t address, size_t bytes) {
  if (tensor_count == 0) return reinterpret_cast<void*>(address);
  static unsigned last = 0;  // most accesses are to the tensor of the access before
  for (unsigned i = 0; i < tensor_count; ++i) {
    const unsigned at = (last + i) % tensor_count;
    if (address < tensors[at].begin || address + bytes > tensors[at].end) continue;
    last = at;
    return reinterpret_cast<void*>(address);
  }
  stray("global", address, bytes);
}

inline void* shared(uint64_t address, size_t bytes) {
  if (address + bytes > shared_bytes) stray("shared", address, bytes);
  return static_cast<unsigned char*>(emulation::machine.shared) + address;
}

template <class T, int count>
inline T* global(uint64_t address) {
  void* const at = global(address, count * sizeof(T));
  emulation::check_aligned(at, count * sizeof(T));
  return static_cast<T*>(at);
}

template <class T, int count>
inline T* shared(uint64_t address) {
  emulation::check_aligned(reinterpret_cast<void*>(address), count * sizeof(T));
  return static_cast<T*>(shared(address, count * sizeof(T)));
}

template <class T, int count>
inline T* generic(uint64_t address) {
  return address >= kAperture ? shared<T, count>(address - kAperture) : global<T, count>(address);
}

// A thread's own memory.
template <class T, int count>
inline T* local(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

template <class T, int count>
inline const T* param(uint64_t address) {
  return reinterpret_cast<const T*>(address);
}

inline unsigned this_thread() {
  return emulation::machine.running->thread.x + emulation::machine.block_size.x * emulation::machine.running->thread.y;
}

// --- cp.async -------------------------------------------------------------------------------------------------------

struct Copy {
  unsigned char* to;
  const unsigned char* from;
  unsigned bytes, own;  // those beyond its own are zero
  unsigned group;
};
static std::vector<Copy> copies[emulation::kMostThreads];
static unsigned groups[emulation::kMostThreads];

ZIGZAG_SCHEDULER inline void do_cp_async(b32 to, uint64_t from, unsigned bytes, unsigned own) {
  const unsigned thread = this_thread();
  if (own > bytes) own = bytes;
  auto* const place = static_cast<unsigned char*>(shared(to, bytes));
  emulation::check_aligned(reinterpret_cast<void*>(uintptr_t{to}), bytes);
  emulation::check_aligned(reinterpret_cast<void*>(from), own ? bytes : 1);
  std::memset(place, 0xff, bytes);
  copies[thread].push_back(
      {place, own ? static_cast<unsigned char*>(global(from, own)) : nullptr, bytes, own, groups[thread]});
}

inline void commit() { ++groups[this_thread()]; }

// All groups but the `pending` latest arrive, none of them sooner.
ZIGZAG_SCHEDULER inline void wait(unsigned pending) {
  const unsigned thread = this_thread();
  std::vector<Copy> rest;
  for (const Copy& copy : copies[thread]) {
    if (copy.group + pending >= groups[thread]) {
      rest.push_back(copy);
      continue;
    }
    if (copy.own) std::memcpy(copy.to, copy.from, copy.own);
    std::memset(copy.to + copy.own, 0, copy.bytes - copy.own);
  }
  copies[thread] = std::move(rest);
}

inline void begin() {
  const unsigned thread = this_thread();
  copies[thread].clear(), groups[thread] = 0;
}

// --- mbarrier and bulk copies: emulated_units.h ---------------------------------------------------------------------

inline emulation::Arrival* arrival_at(b32 address) {
  return reinterpret_cast<emulation::Arrival*>(shared<b64, 1>(address));
}

inline void do_mbarrier_init(b32 address, b32 count) {
  if (count != 1) std::abort();  // the emulation's have one
  emulation::prepare(arrival_at(address));
}
inline void do_mbarrier_expect(b32 address, b32 bytes) { emulation::expect(arrival_at(address), bytes); }
inline bool do_mbarrier_wait(b32 address, b32 parity) {
  emulation::await(arrival_at(address), parity);
  return true;
}
inline void do_bulk_copy(b32 to, b64 map, s32 channel, s32 column, s32 row, s32 image, b32 arrival) {
  const auto& tile = *reinterpret_cast<const emulation::TileMap*>(map);
  auto* const place = static_cast<unsigned char*>(shared(to, static_cast<size_t>(tile.box) * tile.line));
  emulation::copy_tile(place, tile, channel, column, row, image, arrival_at(arrival));
}

// --- what a warp does together --------------------------------------------------------------------------------------

using emulation::kWarp;

struct Met {
  const emulation::Exchange& exchange;
  int turn;
  unsigned lane;

  b32 left(unsigned lane, int i) const { return exchange.left[turn][lane][i]; }
  b32 right(unsigned lane, int i) const { return exchange.right[turn][lane][i]; }
};

// The instruction at which a thread is, and those at which the threads of a warp came to meet.
static unsigned place;
static unsigned places[emulation::kMostThreads / kWarp][2][kWarp];

// What all threads do together, as each says itself.
inline void everybody(b32 members) {
  if (members == ~0u) return;
  std::fprintf(stderr, "ptx: parts of a warp, %#x, which are not known here\n", members);
  std::abort();
}

// Every thread hands its words to the others.
template <size_t L, size_t R>
ZIGZAG_SCHEDULER inline Met meet(const b32 (&left)[L], const b32 (&right)[R]) {
  using emulation::machine;
  emulation::Fiber& fiber = *machine.running;
  const unsigned thread = this_thread(), lane = thread % kWarp;
  emulation::Exchange& exchange = machine.exchanges[thread / kWarp];
  const int turn = fiber.exchanges++ % 2;
  std::memcpy(exchange.left[turn][lane], left, sizeof left);
  std::memcpy(exchange.right[turn][lane], right, sizeof right);
  places[thread / kWarp][turn][lane] = place;
  emulation::leave(emulation::State::in_warp);
  if (places[thread / kWarp][turn][lane] != places[thread / kWarp][turn][0]) {
    std::fprintf(stderr, "ptx: the threads of a warp have met at several instructions\n");
    std::abort();
  }
  return {exchange, turn, lane};
}

inline Met meet(b32 value) { return meet({value}, {0u}); }

inline b32 do_shfl_bfly(b32 value, b32 by) {
  const Met met = meet(value);
  return met.left((met.lane ^ by) % kWarp, 0);
}
inline b32 do_shfl_idx(b32 value, b32 from) {
  const Met met = meet(value);
  return met.left(from % kWarp, 0);
}
inline b32 do_redux_max_s32(b32 value) {
  const Met met = meet(value);
  s32 most = of<s32>(value);
  for (unsigned lane = 0; lane < kWarp; ++lane) most = do_max(most, of<s32>(met.left(lane, 0)));
  return of<b32>(raw(most));
}

// Matrices of 8 x 8 of two bytes: thread 8m + i has the address of row i of matrix m, thread 4i + j two elements of row
// i (or, transposed, of column i).
template <int count, bool transposed>
inline void do_ldmatrix(b32 (&values)[count], b32 address) {
  const Met met = meet(address);
  for (unsigned m = 0; m < count; ++m) {
    b16 two[2];
    for (unsigned e = 0; e < 2; ++e) {
      const unsigned near = met.lane / 4, far = met.lane % 4 * 2 + e;
      const b32 row = met.left(8 * m + (transposed ? far : near), 0);
      two[e] = shared<b16, 8>(row)[transposed ? near : far];
    }
    std::memcpy(&values[m], two, 4);
  }
}
template <int count, bool transposed>
inline void do_stmatrix(b32 address, const b32 (&values)[count]) {
  const Met met = meet(address);
  for (unsigned m = 0; m < count; ++m) {
    for (unsigned e = 0; e < 2; ++e) {
      const unsigned near = met.lane / 4, far = met.lane % 4 * 2 + e;
      const b32 row = met.left(8 * m + (transposed ? far : near), 0);
      shared<b16, 8>(row)[transposed ? near : far] = static_cast<b16>(values[m] >> (16 * e));
    }
  }
}

// --- tensor cores ---------------------------------------------------------------------------------------------------

template <class T>
inline double half_of(b32 word, unsigned which) {
  return widened(of<T>(word >> (16 * which)));
}

// Thread 4i + j has, of a 16 x 16 factor, rows i and i + 8, columns 2j, 2j + 1 and those 8 further on.
template <class T>
inline double left_of(const Met& met, unsigned row, unsigned k) {
  return half_of<T>(met.left(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2), k % 2);
}

// The sum of a row's products with a column in eights, as `added` has it.
template <class Left, class Right>
inline f32 dot(f32 sum, Left left, Right right) {
  for (unsigned first = 0; first < 16; first += 8) {
    double terms[9] = {sum};
    for (unsigned k = 0; k < 8; ++k) terms[1 + k] = left(first + k) * right(first + k);
    sum = emulation::added(terms);
  }
  return sum;
}

template <class T>
inline void do_mma_m16n8k16(b32 (&sums)[4], const b32 (&left)[4], const b32 (&right)[2]) {
  const Met met = meet(left, right);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned column = met.lane % 4 * 2 + i % 2;
    const unsigned row = met.lane / 4 + i / 2 * 8;
    const f32 sum = dot(
        of<f32>(sums[i]), [&](unsigned k) { return left_of<T>(met, row, k); },
        [&](unsigned k) { return half_of<T>(met.right(column * 4 + k % 8 / 2, k / 8), k % 2); });
    sums[i] = of<b32>(raw(sum));
  }
}

inline void do_mma_m16n8k8(b32 (&sums)[4], const b32 (&left)[4], const b32 (&right)[2]) {
  f32 floats[4];
  std::memcpy(floats, sums, sizeof sums);
  emulation::multiply_add(floats, left, right);
  std::memcpy(sums, floats, sizeof sums);
}

inline void do_mma_m8n8k4(b64 (&sums)[2], b64 left, b64 right) {
  const Met met = meet({static_cast<b32>(left), static_cast<b32>(left >> 32)},
                       {static_cast<b32>(right), static_cast<b32>(right >> 32)});
  for (unsigned i = 0; i < 2; ++i) {
    f64 sum = of<f64>(sums[i]);
    for (unsigned k = 0; k < 4; ++k) {
      const unsigned row = met.lane / 4 * 4 + k, column = (met.lane % 4 * 2 + i) * 4 + k;
      const b64 a = met.left(row, 0) | static_cast<b64>(met.left(row, 1)) << 32;
      const b64 b = met.right(column, 0) | static_cast<b64>(met.right(column, 1)) << 32;
      sum = std::fma(of<f64>(a), of<f64>(b), sum);
    }
    sums[i] = raw(sum);
  }
}

// A factor of wgmma's in shared memory, said of the right one: lines of `line` bytes, eight of them to a group, groups
// `stride` bytes apart, 16 bytes of a line exchanged by the line's number. A line has elements of one column, or
// (transposed) of one k; there more columns than it holds are `leading` bytes further on.
struct Descriptor {
  b32 start, leading, stride, line;

  explicit Descriptor(b64 bits)
      : start((bits & 0x3fff) << 4),
        leading((bits >> 16 & 0x3fff) << 4),
        stride((bits >> 32 & 0x3fff) << 4),
        line(256u >> (bits >> 62)) {
    if (bits >> 62 == 0 || (bits >> 49 & 7) != 0) {
      std::fprintf(stderr, "ptx: a descriptor of shared memory that is not known here, %#lx\n",
                   static_cast<unsigned long>(bits));
      std::abort();
    }
  }

  template <class T, bool transposed>
  double at(unsigned k, unsigned column) const {
    const unsigned number = transposed ? k : column, place = 2 * (transposed ? column : k), lines = line / 16 - 1;
    const b32 at = start + place / line * leading + number / 8 * stride + number % 8 * line + place % line;
    return widened(of<T>(*shared<b16, 1>(at ^ ((at >> 7 & lines) << 4))));
  }
};

// Each of four warps has 16 rows. The products are made at once: nothing here shows a wait that is missing.
template <class T, bool transposed, int count, class Left>
inline void multiply_group(b32 (&sums)[count], unsigned first_row, unsigned lane, Left left, b64 descriptor, bool add) {
  const Descriptor right(descriptor);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned row = first_row + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    const f32 sum = dot(
        add ? of<f32>(sums[i]) : 0, [&](unsigned k) { return left(row, k); },
        [&](unsigned k) { return right.at<T, transposed>(k, column); });
    sums[i] = of<b32>(raw(sum));
  }
}
template <class T, bool transposed, int count>
inline void do_wgmma(b32 (&sums)[count], const b32 (&left)[4], b64 right, bool add) {
  const Met met = meet(left, {0u});
  const auto element = [&](unsigned row, unsigned k) { return left_of<T>(met, row, k); };
  multiply_group<T, transposed>(sums, 0, met.lane, element, right, add);
}
template <class T, bool left_transposed, bool transposed, int count>
inline void do_wgmma(b32 (&sums)[count], b64 left, b64 right, bool add) {
  const Descriptor from(left);
  const auto element = [&](unsigned row, unsigned k) { return from.at<T, left_transposed>(k, row); };
  const unsigned thread = this_thread();
  multiply_group<T, transposed>(sums, thread / kWarp % 4 * 16, thread % kWarp, element, right, add);
}

}  // namespace ptx
