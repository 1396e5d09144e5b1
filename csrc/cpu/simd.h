// Vectors of the instruction set this file is compiled for. Everything lives in that set's namespace, and nothing
// inline comes from the standard library, so that the linker can never mix code of two sets.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace zigzag {
namespace ZIGZAG_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class A>
constexpr int kLanes = kVectorBytes / sizeof(A);

// A wide block is four vectors of channels, enough independent sums to hide the latency of an addition. A full one is
// sixteen, for walks that hold no sums: whole pixels of 256 float channels, a stream that the hardware can follow.
constexpr int kWide = 4;
constexpr int kFull = 16;

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kVectorBytes)));
  typedef A unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
};

template <class A>
using Vec = typename VectorOf<A>::type;

template <class A>
inline Vec<A> load(const A* p) {
  return *reinterpret_cast<const typename VectorOf<A>::unaligned*>(p);
}

template <class A>
inline void store(A* p, Vec<A> v) {
  *reinterpret_cast<typename VectorOf<A>::unaligned*>(p) = v;
}

// Stores past the caches what nobody reads soon: the line need not be read first. p is aligned to the vector; memory is
// in order again after `end_of_stream`.
template <class A>
inline void stream(A* p, Vec<A> v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  store(p, v);
#endif
}

inline void end_of_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class A>
inline Vec<A> splat(A value) {
  return value - Vec<A>{};
}

// a * b + c, rounded once where the instruction set can: written out, because what a compiler fuses by itself differs
// from one copy of a loop to the next, and results must not depend on which copy ran.
inline Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

inline Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return (Vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (Vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace ZIGZAG_ISA
}  // namespace zigzag
