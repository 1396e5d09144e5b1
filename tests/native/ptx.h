// The instructions of PTX, for kernels that tests/ptx.py has made C++ of (PTX ISA 8.8, the sections named after them).
// Registers hold bits; `of` takes them for a type, `raw` gives them back. Threads run as emulation.h has them.
#pragma once

#include <limits>
#include <type_traits>

#include "emulation.h"

namespace ptx {

using b8 = uint8_t;
using b16 = uint16_t;
using b32 = uint32_t;
using b64 = uint64_t;
using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f16 = _Float16;
using f32 = float;
using f64 = double;
using pred = bool;
typedef int16_t s16x2 __attribute__((vector_size(4)));
struct bf16 {
  uint16_t bits;
};
struct bf16x2 {
  bf16 low, high;
};
struct tf32 {
  uint32_t bits;
};

template <class T>
inline T of(uint64_t bits) {
  if constexpr (std::is_same_v<T, bool>) {
    return bits != 0;
  } else {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
}

// A value in a register wider than its type is extended by its sign, if it has one.
template <class T>
inline uint64_t raw(T value) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<uint64_t>(value);
  } else {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
  }
}

// bfloat16's sums and products, rounded to float32 first, are the same when they are rounded again: it has the digits.
inline f32 wide(bf16 x) { return __bfloat162float({x.bits}); }
inline bf16 rounded(f32 x) { return {__float2bfloat16_rn(x).bits}; }
inline bf16 operator+(bf16 a, bf16 b) { return rounded(wide(a) + wide(b)); }
inline bf16 operator-(bf16 a, bf16 b) { return rounded(wide(a) - wide(b)); }
inline bf16 operator*(bf16 a, bf16 b) { return rounded(wide(a) * wide(b)); }
inline bf16x2 operator+(bf16x2 a, bf16x2 b) { return {a.low + b.low, a.high + b.high}; }
inline bf16x2 operator-(bf16x2 a, bf16x2 b) { return {a.low - b.low, a.high - b.high}; }
inline bf16x2 operator*(bf16x2 a, bf16x2 b) { return {a.low * b.low, a.high * b.high}; }

// --- arithmetic: do_NAME_MODIFIERS ----------------------------------------------------------------------------------

template <class T>
using twice = std::conditional_t<
    std::is_signed_v<T>, std::conditional_t<sizeof(T) == 2, s32, std::conditional_t<sizeof(T) == 4, s64, __int128>>,
    std::conditional_t<sizeof(T) == 2, u32, std::conditional_t<sizeof(T) == 4, u64, unsigned __int128>>>;

template <class T>
inline T do_add(T a, T b) {
  return static_cast<T>(a + b);
}
template <class T>
inline T do_sub(T a, T b) {
  return static_cast<T>(a - b);
}
template <class T>
inline T do_mul(T a, T b) {
  return a * b;
}
template <class T>
inline T do_mul_lo(T a, T b) {
  return static_cast<T>(static_cast<twice<T>>(a) * b);
}
template <class T>
inline T do_mul_hi(T a, T b) {
  return static_cast<T>(static_cast<twice<T>>(a) * b >> (8 * sizeof(T)));
}
template <class T>
inline twice<T> do_mul_wide(T a, T b) {
  return static_cast<twice<T>>(a) * b;
}
template <class T>
inline T do_mad_lo(T a, T b, T c) {
  return do_add(do_mul_lo(a, b), c);
}
template <class T>
inline T do_div(T a, T b) {
  if (b == 0) return static_cast<T>(-1);  // "unspecified"
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(-a);
  return static_cast<T>(a / b);
}
template <class T>
inline T do_rem(T a, T b) {
  if (b == 0) return a;
  return std::is_signed_v<T> && b == static_cast<T>(-1) ? T(0) : static_cast<T>(a % b);
}
// Of floats, a number rather than NaN; -0 is less than 0.
template <class T>
inline T do_min(T a, T b) {
  if constexpr (!std::is_integral_v<T>) {
    if (a != a) return b;
    if (a == b) return std::signbit(static_cast<f64>(a)) ? a : b;
  }
  return b < a ? b : a;
}
template <class T>
inline T do_max(T a, T b) {
  if constexpr (!std::is_integral_v<T>) {
    if (a != a) return b;
    if (a == b) return std::signbit(static_cast<f64>(a)) ? b : a;
  }
  return b > a ? b : a;
}
template <class T>
inline T do_min_relu(T a, T b) {
  return do_max(do_min(a, b), T(0));
}
template <class T>
inline T do_abs(T a) {
  if constexpr (std::is_integral_v<T>) return a < 0 ? static_cast<T>(-a) : a;
  return std::fabs(a);
}
template <class T>
inline T do_neg(T a) {
  return static_cast<T>(-a);
}
template <class T>
inline T do_fma_rn(T a, T b, T c) {
  return std::fma(a, b, c);
}
// In between rounded to odd, so that rounding again is rounding once: products are exact in float64, sums hardly less.
inline f32 to_odd(f64 exact) {
  const f32 near = static_cast<f32>(exact);
  if (near == exact || !std::isfinite(near)) return near;
  return of<f32>(raw(emulation::cut_off(exact)) | 1);
}
inline bf16 do_fma_rn(bf16 a, bf16 b, bf16 c) { return rounded(to_odd(f64{wide(a)} * wide(b) + wide(c))); }
inline bf16x2 do_fma_rn(bf16x2 a, bf16x2 b, bf16x2 c) {
  return {do_fma_rn(a.low, b.low, c.low), do_fma_rn(a.high, b.high, c.high)};
}
template <class T>
inline T do_div_rn(T a, T b) {
  return a / b;
}
template <class T>
inline T do_add_rn(T a, T b) {
  return a + b;
}
template <class T>
inline T do_sub_rn(T a, T b) {
  return a - b;
}
template <class T>
inline T do_mul_rn(T a, T b) {
  return a * b;
}
template <class T>
inline T do_rcp_rn(T a) {
  return 1 / a;
}
// Up to two units in the last place off: by a reciprocal that is one off itself, so that nothing may count on more.
inline f32 do_div_full(f32 a, f32 b) {
  const f32 inverse = 1 / b;
  return std::isnormal(inverse) ? a * std::nextafterf(inverse, 0.f) : a / b;
}
template <class T>
inline T do_sqrt_rn(T a) {
  return std::sqrt(a);
}
template <class T>
inline T do_and(T a, T b) {
  return static_cast<T>(a & b);
}
template <class T>
inline T do_or(T a, T b) {
  return static_cast<T>(a | b);
}
template <class T>
inline T do_xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <class T>
inline T do_not(T a) {
  if constexpr (std::is_same_v<T, bool>) return !a;
  return static_cast<T>(~a);
}
template <class T>
inline T do_shl(T a, u32 by) {
  return by < 8 * sizeof(T) ? static_cast<T>(a << by) : T(0);
}
template <class T>
inline T do_shr(T a, u32 by) {
  constexpr u32 last = 8 * sizeof(T) - 1;
  if (std::is_signed_v<T> && by > last) by = last;
  return by <= last ? static_cast<T>(a >> by) : T(0);
}
template <class T>
inline T do_bfe(T a, u32 position, u32 length) {
  constexpr u32 last = 8 * sizeof(T) - 1;
  position &= 255, length &= 255;
  if (length == 0) return 0;
  const u32 end = position + length - 1 < last ? position + length - 1 : last;
  if (position > last) return std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
  return do_shr(static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) << (last - end)), last - end + position);
}
template <class T>
inline T do_bfi(T from, T into, u32 position, u32 length) {
  position &= 255, length &= 255;
  const T mask = do_shl(length < 8 * sizeof(T) ? static_cast<T>((T{1} << length) - 1) : static_cast<T>(-1), position);
  return static_cast<T>((into & ~mask) | (do_shl(from, position) & mask));
}
inline b32 do_shf_l_wrap(b32 low, b32 high, b32 by) {
  return static_cast<b32>((static_cast<uint64_t>(high) << 32 | low) << (by & 31) >> 32);
}
inline b32 do_shf_r_wrap(b32 low, b32 high, b32 by) {
  return static_cast<b32>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}
inline b32 do_prmt(b32 a, b32 b, b32 selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  b32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 choice = selector >> (4 * i) & 15;
    b32 byte = bytes >> (8 * (choice & 7)) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

template <class T>
inline bool do_setp_eq(T a, T b) {
  return a == b;
}
template <class T>
inline bool do_setp_ne(T a, T b) {
  return a < b || a > b;  // of floats: ordered
}
template <class T>
inline bool do_setp_lt(T a, T b) {
  return a < b;
}
template <class T>
inline bool do_setp_le(T a, T b) {
  return a <= b;
}
template <class T>
inline bool do_setp_gt(T a, T b) {
  return a > b;
}
template <class T>
inline bool do_setp_ge(T a, T b) {
  return a >= b;
}
template <class T>
inline bool do_setp_num(T a, T b) {
  return a == a && b == b;
}
template <class T>
inline bool do_setp_nan(T a, T b) {
  return !do_setp_num(a, b);
}
template <class T>
inline bool do_setp_neu(T a, T b) {
  return !(a == b);
}
template <class T>
inline bool do_setp_ltu(T a, T b) {
  return !(a >= b);
}
template <class T>
inline bool do_setp_leu(T a, T b) {
  return !(a > b);
}
template <class T>
inline bool do_setp_gtu(T a, T b) {
  return !(a <= b);
}
template <class T>
inline bool do_setp_geu(T a, T b) {
  return !(a < b);
}

// --- conversions ----------------------------------------------------------------------------------------------------

inline f32 widened(bf16 value) { return wide(value); }
template <class T>
inline T widened(T value) {
  return value;
}

// rn from floats, or between integers.
template <class To, class From>
inline To do_cvt(From from) {
  const auto value = widened(from);
  if constexpr (std::is_same_v<To, bf16>) {
    return rounded(to_odd(static_cast<f64>(value)));
  } else {
    return static_cast<To>(value);
  }
}
template <class To, class From>
inline To do_cvt_rn(From from) {
  return do_cvt<To>(from);
}
// To integers: what one cannot hold is the nearest that it can.
template <class To, class From>
inline To do_cvt_rzi(From from) {
  static_assert(std::is_integral_v<To>);
  if (from != from) return sizeof(To) == 8 || sizeof(From) == 8 ? static_cast<To>(To{1} << (8 * sizeof(To) - 1)) : 0;
  if (from >= std::ldexp(From(1), std::numeric_limits<To>::digits)) return std::numeric_limits<To>::max();
  if (from <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  return static_cast<To>(from);
}
template <class To>
inline To do_cvt_rna(f32 from) {
  return {emulation::to_tf32(from)};
}
template <class T>
inline b32 pair(f32 high, f32 low) {
  return static_cast<b32>(raw(do_cvt<T>(high)) << 16 | raw(do_cvt<T>(low)));
}

}  // namespace ptx

#include "ptx_units.h"
