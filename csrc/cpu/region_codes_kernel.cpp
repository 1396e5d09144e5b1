// The matrix products of region_codes, for one instruction set: tiles of a result are held in registers.
#include "region_codes_kernel.h"

#include "simd.h"

namespace zigzag {
namespace ZIGZAG_ISA {
namespace {

// A tile has so many rows and four vectors or rows across: what the registers hold beside one operand.
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 3;
#endif
constexpr int kTileVectors = 4;

// Elements of a dot product that are summed before the sum is put aside: their rows stay in the first cache, and no
// float32 sum grows long.
constexpr int64_t kChunk = 512;
// Rows of the left factor whose sums are put aside.
constexpr int64_t kSlab = 64;
// Rows of the weight that are read side by side where columns are summed: as many streams as the hardware follows.
constexpr int64_t kStreams = 8;

// Lanes are added in double: it costs little, and short sums stay as good as long ones.
template <class A>
inline double sum_lanes(Vec<A> v) {
  constexpr int half = kLanes<A> / 2;
  A lane[kLanes<A>];
  double sum[half];
  store(lane, v);
  for (int i = 0; i < half; ++i) sum[i] = static_cast<double>(lane[i]) + static_cast<double>(lane[i + half]);
  for (int width = half / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  }
  return sum[0];
}

// totals[r][q] += the product of left row r and weight row q over `length` elements, a whole number of vectors. As much
// is fetched from `next`.
template <class A, int R, int Q>
void dot_tile(const A* left, const A* weight, int64_t step, int64_t length, const A* next, Vec<A>* totals) {
  Vec<A> sum[R][Q] = {};
  for (int64_t i = 0; i < length; i += kLanes<A>) {
    if (R > 1) __builtin_prefetch(next + i, 0, 2);
    Vec<A> w[Q];
    for (int q = 0; q < Q; ++q) w[q] = load(weight + q * step + i);
    for (int r = 0; r < R; ++r) {
      const Vec<A> x = load(left + r * step + i);
      for (int q = 0; q < Q; ++q) sum[r][q] = fma(w[q], x, sum[r][q]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int q = 0; q < Q; ++q) totals[r * kProductRows + q] += sum[r][q];
  }
}

template <class A, int Q>
void dot_tile_of(int64_t rows, const A* left, const A* weight, int64_t step, int64_t length, const A* next,
                 Vec<A>* totals) {
  using Tile = void (*)(const A*, const A*, int64_t, int64_t, const A*, Vec<A>*);
  static constexpr Tile tiles[] = {dot_tile<A, 1, Q>, dot_tile<A, 2, Q>, dot_tile<A, 3, Q>,
                                   dot_tile<A, 4, Q>, dot_tile<A, 5, Q>, dot_tile<A, 6, Q>};
  tiles[rows - 1](left, weight, step, length, next, totals);
}

// The part of what is read next that one run of tasks fetches.
template <class A>
struct Ahead {
  const A* at;
  const A* end;

  const A* take(int64_t length, const A* otherwise) {
    if (end - at < length) return otherwise;
    at += length;
    return at - length;
  }
};

// Q rows of the weight, from row o, against rows first .. last - 1 of the left factor.
template <class A, int Q>
void dot_slab(const ProductArgs& args, int64_t o, int64_t first, int64_t last, Ahead<A>& ahead) {
  const int64_t k = args.k, whole = k - k % kLanes<A>;
  const A* left = static_cast<const A*>(args.left);
  const A* weight = static_cast<const A*>(args.right) + o * k;
  Vec<A> totals[kSlab * kProductRows];
  memset(totals, 0, (last - first) * kProductRows * sizeof(Vec<A>));
  for (int64_t i = 0; i < whole; i += kChunk) {
    const int64_t length = smaller(kChunk, whole - i);
    for (int64_t m = first; m < last; m += kTileRows) {
      const int64_t rows = smaller(kTileRows, last - m);
      const A* next = rows > 1 ? ahead.take(length, left) : left;
      dot_tile_of<A, Q>(rows, left + m * k + i, weight + i, k, length, next, totals + (m - first) * kProductRows);
    }
  }
  A* out = static_cast<A*>(args.out);
  for (int64_t m = first; m < last; ++m) {
    for (int q = 0; q < Q; ++q) {
      double total = sum_lanes<A>(totals[(m - first) * kProductRows + q]);
      for (int64_t i = whole; i < k; ++i) total += static_cast<double>(weight[q * k + i]) * left[m * k + i];
      out[m * args.o + o + q] = static_cast<A>(total);
    }
  }
}

template <class A>
void times_transposed(const ProductArgs& args, int64_t begin, int64_t end) {
  const int64_t tasks = args.tasks, next = args.next_bytes / sizeof(A);
  const A* start = static_cast<const A*>(args.next);
  Ahead<A> ahead = {start + next * begin / tasks, start + next * end / tasks};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t low = task * kProductRows, high = smaller(low + kProductRows, args.o);
    for (int64_t m = 0; m < args.m; m += kSlab) {
      const int64_t last = smaller(m + kSlab, args.m);
      if (high - low == kProductRows) {
        dot_slab<A, kProductRows>(args, low, m, last, ahead);
        continue;
      }
      for (int64_t o = low; o < high; ++o) dot_slab<A, 1>(args, o, m, last, ahead);
    }
  }
}

// Factors of a sum of outer products: element (r, s) of the left one is left[r * row + s * step].
template <class A>
struct Factors {
  const A* left;
  int64_t row, step;
  const A* right;
  int64_t right_step, steps;
};

// What becomes of a sum: added to what is there, stored in its place, or the same past the caches.
enum class Into { sum, fresh, stream };

// to[r][..] (+)= sum over s of left(r, s) * right[s][..], for R rows and V vectors.
template <class A, int R, int V>
void sum_tile(const Factors<A>& f, Into into, A* to, int64_t to_step) {
  Vec<A> sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sum[r][v] = into == Into::sum ? load(to + r * to_step + v * kLanes<A>) : Vec<A>{};
  }
  for (int64_t s = 0; s < f.steps; ++s) {
    Vec<A> x[V];
    for (int v = 0; v < V; ++v) x[v] = load(f.right + s * f.right_step + v * kLanes<A>);
    for (int r = 0; r < R; ++r) {
      const Vec<A> factor = splat(f.left[r * f.row + s * f.step]);
      for (int v = 0; v < V; ++v) sum[r][v] = fma(factor, x[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    A* row = to + r * to_step;
    for (int v = 0; v < V; ++v) {
      into == Into::stream ? stream(row + v * kLanes<A>, sum[r][v]) : store(row + v * kLanes<A>, sum[r][v]);
    }
  }
}

template <class A, int V>
void sum_tile_of(int64_t rows, const Factors<A>& factors, Into into, A* to, int64_t to_step) {
  using Tile = void (*)(const Factors<A>&, Into, A*, int64_t);
  static constexpr Tile tiles[] = {sum_tile<A, 1, V>, sum_tile<A, 2, V>, sum_tile<A, 3, V>,
                                   sum_tile<A, 4, V>, sum_tile<A, 5, V>, sum_tile<A, 6, V>};
  tiles[rows - 1](factors, into, to, to_step);
}

// The same for `rows` rows and `columns` columns: tiles of four vectors, of one, and what is left element by element.
template <class A>
void sum_columns(const Factors<A>& factors, int64_t rows, int64_t columns, Into into, A* to, int64_t to_step) {
  constexpr int64_t wide = kTileVectors * kLanes<A>;
  int64_t i = 0;
  while (i + kLanes<A> <= columns) {
    const int64_t width = i + wide <= columns ? wide : kLanes<A>;
    for (int64_t r = 0; r < rows; r += kTileRows) {
      Factors<A> own = factors;
      own.left += r * own.row, own.right += i;
      const auto tile = width == wide ? sum_tile_of<A, kTileVectors> : sum_tile_of<A, 1>;
      tile(smaller(kTileRows, rows - r), own, into, to + r * to_step + i, to_step);
    }
    i += width;
  }
  for (; i < columns; ++i) {
    for (int64_t r = 0; r < rows; ++r) {
      A sum = into == Into::sum ? to[r * to_step + i] : A(0);
      for (int64_t s = 0; s < factors.steps; ++s) {
        sum += factors.left[r * factors.row + s * factors.step] * factors.right[s * factors.right_step + i];
      }
      to[r * to_step + i] = sum;
    }
  }
}

template <class A>
void times(const ProductArgs& args, int64_t begin, int64_t end) {
  const int64_t low = begin * kProductColumns, high = smaller(end * kProductColumns, args.k);
  const A* left = static_cast<const A*>(args.left);
  const A* weight = static_cast<const A*>(args.right);
  for (int64_t o = 0; o < args.o; o += kStreams) {
    const Factors<A> factors = {left + o, args.o, 1, weight + o * args.k + low, args.k, smaller(kStreams, args.o - o)};
    sum_columns<A>(factors, args.m, high - low, o == 0 ? Into::fresh : Into::sum, static_cast<A*>(args.out) + low,
                   args.k);
  }
}

template <class A>
void transposed_times(const ProductArgs& args, int64_t begin, int64_t end) {
  const A* left = static_cast<const A*>(args.left);
  const A* right = static_cast<const A*>(args.right);
  A* out = static_cast<A*>(args.out);
  const bool aligned = args.k % kLanes<A> == 0 && reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0;
  const int64_t high = smaller(end * kProductRows, args.o);
  for (int64_t o = begin * kProductRows; o < high; o += kTileRows) {
    const Factors<A> factors = {left + o, 1, args.o, right, args.k, args.m};
    sum_columns<A>(factors, smaller(kTileRows, high - o), args.k, aligned ? Into::stream : Into::fresh,
                   out + o * args.k, args.k);
  }
  end_of_stream();
}

template <void (*F64)(const ProductArgs&, int64_t, int64_t), void (*F32)(const ProductArgs&, int64_t, int64_t)>
void either(const ProductArgs& args, int64_t begin, int64_t end) {
  return args.f64 ? F64(args, begin, end) : F32(args, begin, end);
}

}  // namespace

extern const ProductKernels region_codes_kernels = {either<times_transposed<double>, times_transposed<float>>,
                                                    either<times<double>, times<float>>,
                                                    either<transposed_times<double>, transposed_times<float>>};

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
