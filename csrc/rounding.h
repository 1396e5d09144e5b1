// Rounding that adds no bias: the only copy in C++ (kernels/rounding.py is Triton's).
#pragma once

#include <cstdint>

#include "geometry.h"

namespace zigzag {

// Where a value lies decides how it is rounded: steps of the three-dimensional R sequence (Roberts, 2018), whose points
// fill the unit interval evenly along a row, a column and the channels.
ZIGZAG_HOST_DEVICE inline uint32_t dither_phase(int64_t h, int64_t w, int64_t channel) {
  return static_cast<uint32_t>(h) * 0xD1B54A33u + static_cast<uint32_t>(w) * 0xABC98389u +
         static_cast<uint32_t>(channel) * 0x8CB92BA7u;
}

// The value, moved by less than half of a unit in the last place of a type that drops the last `dropped` bits of a
// float: rounded to nearest, it is then rounded up as often as it is near to the upper of its neighbours. One that the
// type holds stays as it is, and so do those that are no normal floats or, at `most` and above, could overflow.
ZIGZAG_HOST_DEVICE inline float dithered(float value, uint32_t phase, int dropped, float most) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const float size = value < 0 ? -value : value;
  const uint32_t step = ((phase >> (32 - dropped)) | 1u) - (1u << (dropped - 1));
  bits += size >= 1.17549435e-38f && size < most ? step : 0u;
  __builtin_memcpy(&value, &bits, sizeof(bits));
  return value;
}

// The same for the two narrow types.
ZIGZAG_HOST_DEVICE inline float dithered_bfloat(float v, uint32_t phase) { return dithered(v, phase, 16, 3e38f); }
ZIGZAG_HOST_DEVICE inline float dithered_half(float v, uint32_t phase) {
  // Below its normal values a half has steps of 2^-24.
  const float moved = v + static_cast<float>(static_cast<int32_t>((phase >> 21) | 1u) - 1024) * 0x1p-35f;
  return (v < 0 ? -v : v) < 0x1p-14f ? moved : dithered(v, phase, 13, 65504.0f);
}

}  // namespace zigzag
