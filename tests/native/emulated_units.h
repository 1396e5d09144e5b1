// What else a multiprocessor has, for emulation.h, which includes this: tensor cores and bulk copies.
#pragma once

#include <bit>

#include "emulation.h"

namespace emulation {

// --- tensor cores ----------------------------------------------------------------------------------------------------

inline uint32_t to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return std::isfinite(value) ? bits + 0x1000u : bits;  // PTX says nothing of the bits that are left over
}

inline double of_tf32(uint32_t bits) {
  bits &= ~0x1fffu;  // what tensor cores do not read
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Toward zero, as tensor cores add.
inline float cut_off(double value) {
  const float near = static_cast<float>(value);
  return std::fabs(near) > std::fabs(value) ? std::nextafterf(near, 0.f) : near;
}

// A sum and products (four in tf32, eight of two bytes) as the coarsest tensor cores with these types do it: lined up
// with the largest, what lies more than one bit beyond its 24 cut off (Fasi et al., PeerJ CS 2021, of an A100; later
// ones keep more).
template <size_t count>
inline float added(const double (&terms)[count]) {
  double largest = 0, sum = 0;
  for (double term : terms) {
    if (std::fabs(term) > largest) largest = std::fabs(term);
    sum += term;
  }
  if (largest == 0 || !std::isfinite(sum)) return cut_off(sum);
  // 2 to the power of the last place's exponent, and its inverse, which floats' products leave in range.
  const uint64_t last = (std::bit_cast<uint64_t>(largest) >> 52) - 24;
  const auto unit = std::bit_cast<double>(last << 52), inverse = std::bit_cast<double>((2046 - last) << 52);
  int whole = 0;
  for (double term : terms) whole += static_cast<int>(term * inverse);
  return cut_off(whole * unit);
}

// mma.sync.m16n8k8 in tf32: every thread brings its fragments, and takes its sums from everybody's.
ZIGZAG_SCHEDULER inline void multiply_add(float (&sums)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
  Fiber& fiber = *machine.running;
  const unsigned thread = fiber.thread.x + machine.block_size.x * fiber.thread.y, lane = thread % kWarp;
  Exchange& exchange = machine.exchanges[thread / kWarp];
  const int turn = fiber.exchanges++ % 2;
  for (int i = 0; i < 4; ++i) exchange.left[turn][lane][i] = left[i];
  for (int i = 0; i < 2; ++i) exchange.right[turn][lane][i] = right[i];
  leave(State::in_warp);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 8; k += 4) {
      double terms[5] = {sums[i]};
      for (unsigned j = 0; j < 4; ++j) {
        terms[1 + j] = of_tf32(exchange.left[turn][row * 4 + j][k / 4 * 2 + i / 2]) *
                       of_tf32(exchange.right[turn][column * 4 + j][k / 4]);
      }
      sums[i] = added(terms);
    }
  }
}

// --- bulk copies -----------------------------------------------------------------------------------------------------
// One arrives when it is waited for, the latest moment that there is; until then NaN stands in its place.

constexpr int kTileAlignment = 128;

inline TileMap tile_map(const void* data, const int64_t (&sizes)[4], const int64_t (&strides)[3], int line, int box,
                        int element) {
  check_aligned(data, 16);
  bool takes = line % 16 == 0 && line <= 256 * element && box >= 1 && box <= 256;
  int64_t inner = sizes[0], count = 1;
  for (int i = 0; i < 3; ++i) {
    takes = takes && strides[i] % 16 == 0 && strides[i] % inner == 0 && strides[i] >= count * inner;
    inner = strides[i], count = sizes[i + 1];
  }
  if (!takes) {
    std::fprintf(stderr, "emulation: a map that a GPU does not take for bulk copies\n");
    std::abort();
  }
  return {static_cast<const unsigned char*>(data),
          {sizes[0], sizes[1], sizes[2], sizes[3]},
          {strides[0], strides[1], strides[2]},
          line,
          box,
          element};
}

inline void prepare(Arrival* arrival) { *arrival = {0, 0}; }

inline void publish() {}

ZIGZAG_SCHEDULER inline void expect(Arrival* arrival, int bytes) { arrival->expected += bytes; }

ZIGZAG_SCHEDULER inline void copy_tile(unsigned char* to, const TileMap& map, int channel, int column, int row,
                                       int image, Arrival* arrival) {
  check_aligned(to, kTileAlignment);
  std::memset(to, 0xff, static_cast<size_t>(map.box) * map.line);
  if (machine.copying == kMostCopies) std::abort();
  machine.copies[machine.copying++] = {arrival, to, &map, channel, column, row, image};
  ++machine.copied;
  release(machine.copy_start);
}

ZIGZAG_SCHEDULER inline void arrive(const TileCopy& copy) {
  const TileMap& map = *copy.map;
  for (int i = 0; i < map.box; ++i) {
    const int64_t column = copy.column + i, at = copy.channel * map.element;
    unsigned char* const to = copy.to + static_cast<size_t>(i) * map.line;
    if (column < map.sizes[1] && copy.row < map.sizes[2] && at + map.line <= map.sizes[0]) {
      const int64_t pixel = copy.image * map.strides[2] + copy.row * map.strides[1] + column * map.strides[0];
      std::memcpy(to, map.data + pixel + at, map.line);
    } else {
      std::memset(to, 0, map.line);
    }
  }
  copy.arrival->expected -= static_cast<uint32_t>(map.box * map.line);
}

// Whoever waits first finds the copies made.
ZIGZAG_SCHEDULER inline void make_copies(Arrival* arrival, unsigned parity) {
  acquire(*reinterpret_cast<char*>(arrival));
  if ((arrival->phase & 1) != parity) return;
  acquire(machine.copy_start);  // of the copies alone: who finds them made knows nothing of what was asked for later
  const uint32_t expected = arrival->expected;
  int others = 0;
  for (int i = 0; i < machine.copying; ++i) {
    if (machine.copies[i].arrival == arrival) {
      arrive(machine.copies[i]);
    } else {
      machine.copies[others++] = machine.copies[i];
    }
  }
  machine.copying = others;
  if (expected == 0 || arrival->expected != 0) {
    std::fprintf(stderr, "emulation: a wait for a copy that is not on its way\n");
    std::abort();
  }
  ++arrival->phase;
  release(*reinterpret_cast<char*>(arrival));
}

// Who waits reads what `prepare` wrote: a barrier has to stand between them.
inline void await(Arrival* arrival, unsigned parity) {
  (void)*const_cast<volatile uint32_t*>(&arrival->phase);
  make_copies(arrival, parity);
}

}  // namespace emulation
