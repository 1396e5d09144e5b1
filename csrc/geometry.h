// Integer geometry of regions and resizing: the only copy in C++ (zigzag/geometry.py is Python's).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ZIGZAG_HOST_DEVICE __host__ __device__
#else
#define ZIGZAG_HOST_DEVICE
#endif

namespace zigzag {

// First row of cell y when `size` rows are split into `cells` cells: row h lies in cell floor(h * cells / size).
ZIGZAG_HOST_DEVICE inline int64_t cell_start(int64_t y, int64_t size, int64_t cells) {
  return (y * size + cells - 1) / cells;
}

// Rows in cell y.
ZIGZAG_HOST_DEVICE inline int64_t cell_length(int64_t y, int64_t size, int64_t cells) {
  return cell_start(y + 1, size, cells) - cell_start(y, size, cells);
}

ZIGZAG_HOST_DEVICE inline int64_t cell_of(int64_t h, int64_t size, int64_t cells) { return h * cells / size; }

ZIGZAG_HOST_DEVICE inline int64_t clamp_to(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

// A coordinate's pixel, halves away from zero as C's round; within +-2^30, beyond any map. NaN gives 0.
template <class T>
ZIGZAG_HOST_DEVICE inline int64_t nearest_pixel(T coordinate) {
  constexpr T most = static_cast<T>(1 << 30);
  if (!(coordinate > -most)) return coordinate == coordinate ? -(int64_t{1} << 30) : 0;
  if (coordinate >= most) return int64_t{1} << 30;
  const int64_t whole = static_cast<int64_t>(coordinate);  // toward zero
  const T rest = coordinate - static_cast<T>(whole);
  return whole + (rest >= T(0.5)) - (rest <= T(-0.5));
}

ZIGZAG_HOST_DEVICE inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Rows first .. end - 1.
struct Span {
  int64_t first;
  int64_t end;
};

// The rows of a map that bin p of an RoI pools, by FCIS's rules (see roi_bins in zigzag/geometry.py): the RoI covers
// pixels first .. last of an axis, at least a tenth of a row; bins are widened to whole rows and cut to the map.
ZIGZAG_HOST_DEVICE inline Span roi_bin(int64_t p, int64_t first, int64_t last, int64_t bins, int64_t stride,
                                       int64_t size) {
  const int64_t length = 10 * (last + 1 - first) > stride ? 10 * (last + 1 - first) : stride;
  const int64_t start = 10 * bins * first + p * length, unit = 10 * bins * stride;
  return {clamp_to(floor_div(start, unit), 0, size), clamp_to(-floor_div(-start - length, unit), 0, size)};
}

// The source rows that target row d reads: `count` rows from `start`. Weights are `uniform`, or `first` and 1 -
// `first`.
struct ResizeTap {
  int64_t start;
  int64_t count;
  double first;
};

enum class Resize : int { linear = 0, nearest = 1 };

// Half-pixel bilinear up, area mean down (bins floor(d*s/D) .. ceil((d+1)*s/D)), or the nearest row floor(d*s/D).
ZIGZAG_HOST_DEVICE inline ResizeTap resize_tap(int64_t d, int64_t source, int64_t target, Resize resize) {
  if (resize == Resize::nearest || source == target) {
    return {d * source / target, 1, 1.0};
  }
  if (source > target) {
    const int64_t start = d * source / target;
    const int64_t count = ((d + 1) * source + target - 1) / target - start;
    return {start, count, 1.0 / static_cast<double>(count)};
  }
  // (d + 1/2) * s/D - 1/2 as a fraction over 2D, so that the row is chosen by integers.
  const int64_t over = 2 * target;
  const int64_t position = clamp_to((2 * d + 1) * source - target, 0, (source - 1) * over);
  const int64_t remainder = position % over;
  if (remainder == 0) {
    return {position / over, 1, 1.0};
  }
  return {position / over, 2, 1.0 - static_cast<double>(remainder) / static_cast<double>(over)};
}

}  // namespace zigzag
