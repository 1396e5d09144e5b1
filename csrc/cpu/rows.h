// Rows of a map as the kernels see them: pixel after pixel, channels of one block together, in the accumulation type.
// A float row in channels_last is used where it lies; every other layout or type goes through a scratch row.
#pragma once

#include "map.h"
#include "simd.h"

namespace zigzag {
namespace ZIGZAG_ISA {

// Pixels of a row that are summed one after the other: the digits that a float32 sum loses grow with their number.
constexpr int64_t kRun = 128;

inline float widen_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t rest = bits & 0x7fffu;
  uint32_t word;
  float value;
  if (rest >= 0x7c00u) {
    word = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    memcpy(&value, &word, 4);
    return value;
  }
  word = rest << 13;
  memcpy(&value, &word, 4);
  value *= 0x1p112f;  // moves the exponent's bias; exact, and right for subnormals
  memcpy(&word, &value, 4);
  word |= sign;
  memcpy(&value, &word, 4);
  return value;
}

inline uint16_t narrow_half(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((word >> 16) & 0x8000u);
  word &= 0x7fffffffu;
  if (word > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (word >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (word < 0x38800000u) {  // subnormal: adding 1/2 leaves the rounded bits at the bottom of the word
    float magnitude;
    memcpy(&magnitude, &word, 4);
    magnitude += 0.5f;
    memcpy(&word, &magnitude, 4);
    return static_cast<uint16_t>(sign | (word - 0x3f000000u));
  }
  word += 0xc8000fffu + ((word >> 13) & 1u);  // rebias, round to nearest even
  return static_cast<uint16_t>(sign | (word >> 13));
}

inline float widen_bfloat(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

inline uint16_t narrow_bfloat(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((word & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <Dtype D>
struct Element;
template <>
struct Element<Dtype::f64> {
  typedef double type;
  static double widen(double v) { return v; }
  static double narrow(double v) { return v; }
};
template <>
struct Element<Dtype::f32> {
  typedef float type;
  static float widen(float v) { return v; }
  static float narrow(float v) { return v; }
};
template <>
struct Element<Dtype::bf16> {
  typedef uint16_t type;
  static float widen(uint16_t v) { return widen_bfloat(v); }
  static uint16_t narrow(float v) { return narrow_bfloat(v); }
};
template <>
struct Element<Dtype::f16> {
  typedef uint16_t type;
  static float widen(uint16_t v) { return widen_half(v); }
  static uint16_t narrow(float v) { return narrow_half(v); }
};

template <Dtype D, class A>
inline void widen_run(const typename Element<D>::type* from, A* to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (D == Dtype::f16) {
    for (; i + 8 <= count; i += 8) {
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }
  }
#endif
  for (; i < count; ++i) to[i] = Element<D>::widen(from[i]);
}

template <Dtype D, class A>
inline void narrow_run(const A* from, typename Element<D>::type* to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (D == Dtype::f16) {
    for (; i + 8 <= count; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    }
  }
#endif
  for (; i < count; ++i) to[i] = Element<D>::narrow(from[i]);
}

// One row of a block. `step` is the distance between neighbouring pixels.
template <class A>
struct Row {
  A* data;
  int64_t step;
};

template <class A>
constexpr Dtype kNative = sizeof(A) == 8 ? Dtype::f64 : Dtype::f32;

template <Dtype D, class A>
inline void gather_planes(const typename Element<D>::type* from, int64_t sc, int64_t sw, int64_t count, int64_t width,
                          A* to, int64_t lanes) {
  for (int64_t c = 0; c < count; ++c) {
    for (int64_t w = 0; w < width; ++w) to[w * lanes + c] = Element<D>::widen(from[c * sc + w * sw]);
  }
}

template <Dtype D, class A>
inline void read_pixels(const Map& m, int64_t offset, const Block& block, int64_t width, A* to, int64_t lanes) {
  const auto* from = static_cast<const typename Element<D>::type*>(m.data) + offset;
  if (m.sc != 1 || block.count == 1) {
    gather_planes<D, A>(from, m.sc, m.sw, block.count, width, to, lanes);
  } else {
    for (int64_t w = 0; w < width; ++w) widen_run<D, A>(from + w * m.sw, to + w * lanes, block.count);
  }
  if (block.count < lanes) {
    for (int64_t w = 0; w < width; ++w) memset(to + w * lanes + block.count, 0, (lanes - block.count) * sizeof(A));
  }
}

template <Dtype D, class A>
inline void write_pixels(const Map& m, int64_t offset, const Block& block, int64_t width, const A* from,
                         int64_t lanes) {
  auto* to = static_cast<typename Element<D>::type*>(m.data) + offset;
  if (m.sc != 1 || block.count == 1) {
    for (int64_t c = 0; c < block.count; ++c) {
      for (int64_t w = 0; w < width; ++w) to[c * m.sc + w * m.sw] = Element<D>::narrow(from[w * lanes + c]);
    }
  } else {
    for (int64_t w = 0; w < width; ++w) narrow_run<D, A>(from + w * lanes, to + w * m.sw, block.count);
  }
}

// `scratch` has room for one row: width * lanes.
template <class A>
class Rows {
 public:
  Rows() = default;
  Rows(const Map& map, const Block& block, int64_t n, int64_t lanes)
      : map_(map), block_(block), lanes_(lanes), base_(n * map.sn + block.first * map.sc) {
    direct_ = map.dtype == kNative<A> && map.sc == 1 && block.count == lanes;
  }

  bool direct() const { return direct_; }

  // Elements from a row to the next in memory, for prefetching; 0 where rows go through scratch.
  int64_t ahead() const { return direct_ ? map_.sh : 0; }

  Row<A> read(int64_t h, int64_t width, A* scratch) const {
    if (direct_) return place(h);
    const int64_t offset = base_ + h * map_.sh;
    if constexpr (sizeof(A) == 8) {
      read_pixels<Dtype::f64, A>(map_, offset, block_, width, scratch, lanes_);
    } else if (map_.dtype == Dtype::f32) {
      read_pixels<Dtype::f32, A>(map_, offset, block_, width, scratch, lanes_);
    } else if (map_.dtype == Dtype::bf16) {
      read_pixels<Dtype::bf16, A>(map_, offset, block_, width, scratch, lanes_);
    } else {
      read_pixels<Dtype::f16, A>(map_, offset, block_, width, scratch, lanes_);
    }
    return {scratch, lanes_};
  }

  // Where to write row h: in place, or in scratch until `finish` carries it over.
  Row<A> begin(int64_t h, A* scratch) const { return direct_ ? place(h) : Row<A>{scratch, lanes_}; }

  void finish(int64_t h, int64_t width, const A* scratch) const {
    if (direct_) return;
    const int64_t offset = base_ + h * map_.sh;
    if constexpr (sizeof(A) == 8) {
      write_pixels<Dtype::f64, A>(map_, offset, block_, width, scratch, lanes_);
    } else if (map_.dtype == Dtype::f32) {
      write_pixels<Dtype::f32, A>(map_, offset, block_, width, scratch, lanes_);
    } else if (map_.dtype == Dtype::bf16) {
      write_pixels<Dtype::bf16, A>(map_, offset, block_, width, scratch, lanes_);
    } else {
      write_pixels<Dtype::f16, A>(map_, offset, block_, width, scratch, lanes_);
    }
  }

 private:
  Row<A> place(int64_t h) const { return {static_cast<A*>(map_.data) + base_ + h * map_.sh, map_.sw}; }

  Map map_;
  Block block_ = {};
  int64_t lanes_ = 0, base_ = 0;
  bool direct_ = false;
};

// The block's part of a small (rows, C) table as padded rows: in place where a full block allows it.
template <class A>
inline Row<const A> read_table(const A* table, int64_t rows, int64_t channels, const Block& block, int64_t lanes,
                               A* scratch) {
  if (block.count == lanes) return {table + block.first, channels};
  for (int64_t r = 0; r < rows; ++r) {
    memcpy(scratch + r * lanes, table + r * channels + block.first, block.count * sizeof(A));
    memset(scratch + r * lanes + block.count, 0, (lanes - block.count) * sizeof(A));
  }
  return {scratch, lanes};
}

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
