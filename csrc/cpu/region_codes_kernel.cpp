// The few-row matrix products of region_codes, for one instruction set.
#include "region_codes_kernel.h"

#include "simd.h"

namespace zigzag {
namespace ZIGZAG_ISA {
namespace {

// What is left to add one by one is added in double: it costs nothing here, and short sums stay as good as long ones.
template <class A>
inline double sum_lanes(Vec<A> v) {
  double sum = 0;
  for (int i = 0; i < kLanes<A>; ++i) sum += v[i];
  return sum;
}

// One row of the weight against all M rows: four partial sums each, so that additions overlap when M is small.
template <class A, int M>
void dot_row(const SkinnyArgs& args, int64_t o) {
  constexpr int parts = M <= 2 ? 4 : M <= 4 ? 2 : 1;
  constexpr int64_t span = parts * kLanes<A>;
  const A* weight = static_cast<const A*>(args.right) + o * args.k;
  const A* left = static_cast<const A*>(args.left);
  Vec<A> sum[M][parts] = {};
  int64_t i = 0;
  for (; i + span <= args.k; i += span) {
    for (int p = 0; p < parts; ++p) {
      const Vec<A> w = load(weight + i + p * kLanes<A>);
      for (int m = 0; m < M; ++m) {
        sum[m][p] = fma(w, load(left + m * args.k + i + p * kLanes<A>), sum[m][p]);
      }
    }
  }
  A* out = static_cast<A*>(args.out);
  for (int m = 0; m < M; ++m) {
    Vec<A> all = sum[m][0];
    for (int p = 1; p < parts; ++p) all += sum[m][p];
    double total = sum_lanes<A>(all);
    for (int64_t j = i; j < args.k; ++j) total += static_cast<double>(weight[j]) * left[m * args.k + j];
    out[m * args.o + o] = static_cast<A>(total);
  }
}

// to[m][i] (+)= sum over `rows` rows of the weight, one run of columns; rows come in fours to halve the traffic on
// `to`.
template <class A, int M>
void mix_run(const SkinnyArgs& args, int64_t run) {
  const int64_t low = run * kSkinnyColumns, length = smaller(kSkinnyColumns, args.k - low);
  const A* left = static_cast<const A*>(args.left);
  const A* weight = static_cast<const A*>(args.right) + low;
  alignas(64) A sums[M][kSkinnyColumns];
  memset(sums, 0, sizeof(sums));
  const int64_t whole = length - length % kLanes<A>;
  int64_t o = 0;
  for (; o + 4 <= args.o; o += 4) {
    const A* row[4];
    for (int r = 0; r < 4; ++r) row[r] = weight + (o + r) * args.k;
    for (int64_t i = 0; i < whole; i += kLanes<A>) {
      Vec<A> w[4];
      for (int r = 0; r < 4; ++r) w[r] = load(row[r] + i);
      for (int m = 0; m < M; ++m) {
        Vec<A> sum = load(sums[m] + i);
        for (int r = 0; r < 4; ++r) sum = fma(splat(left[m * args.o + o + r]), w[r], sum);
        store(sums[m] + i, sum);
      }
    }
    for (int64_t i = whole; i < length; ++i) {
      for (int m = 0; m < M; ++m) {
        for (int r = 0; r < 4; ++r) sums[m][i] += left[m * args.o + o + r] * row[r][i];
      }
    }
  }
  for (; o < args.o; ++o) {
    for (int m = 0; m < M; ++m) {
      for (int64_t i = 0; i < length; ++i) sums[m][i] += left[m * args.o + o] * weight[o * args.k + i];
    }
  }
  for (int m = 0; m < M; ++m) memcpy(static_cast<A*>(args.out) + m * args.k + low, sums[m], length * sizeof(A));
}

template <class A, int M>
void outer_row(const SkinnyArgs& args, int64_t o) {
  const A* left = static_cast<const A*>(args.left);
  const A* right = static_cast<const A*>(args.right);
  A* out = static_cast<A*>(args.out) + o * args.k;
  Vec<A> factor[M];
  for (int m = 0; m < M; ++m) factor[m] = splat(left[m * args.o + o]);
  int64_t i = 0;
  for (; i + kLanes<A> <= args.k; i += kLanes<A>) {
    Vec<A> sum = factor[0] * load(right + i);
    for (int m = 1; m < M; ++m) sum = fma(factor[m], load(right + m * args.k + i), sum);
    store(out + i, sum);
  }
  for (; i < args.k; ++i) {
    A sum = 0;
    for (int m = 0; m < M; ++m) sum += left[m * args.o + o] * right[m * args.k + i];
    out[i] = sum;
  }
}

enum class Kind { dot, mix, outer };

template <class A, Kind kind, int M>
void repeat(const SkinnyArgs& args, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (kind == Kind::dot) dot_row<A, M>(args, i);
    if constexpr (kind == Kind::mix) mix_run<A, M>(args, i);
    if constexpr (kind == Kind::outer) outer_row<A, M>(args, i);
  }
}

template <class A, Kind kind>
void run_rows(const SkinnyArgs& args, int64_t begin, int64_t end) {
  using Run = void (*)(const SkinnyArgs&, int64_t, int64_t);
  static constexpr Run runs[kMaxSkinny] = {repeat<A, kind, 1>, repeat<A, kind, 2>, repeat<A, kind, 3>,
                                           repeat<A, kind, 4>, repeat<A, kind, 5>, repeat<A, kind, 6>,
                                           repeat<A, kind, 7>, repeat<A, kind, 8>};
  runs[args.m - 1](args, begin, end);
}

template <Kind kind>
void run(const SkinnyArgs& args, int64_t begin, int64_t end) {
  return args.f64 ? run_rows<double, kind>(args, begin, end) : run_rows<float, kind>(args, begin, end);
}

}  // namespace

extern const SkinnyKernels region_codes_kernels = {run<Kind::dot>, run<Kind::mix>, run<Kind::outer>};

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
