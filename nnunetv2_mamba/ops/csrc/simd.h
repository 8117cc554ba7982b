// Vectors of channels: GCC and Clang vector extensions, as wide as the instruction set that is compiled for.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#define NM_VECTOR_BYTES 64
#elif defined(__AVX__)
#define NM_VECTOR_BYTES 32
#else
#define NM_VECTOR_BYTES 16
#endif

#define NM_INLINED __attribute__((always_inline))
#define NM_INLINE static inline NM_INLINED
#define NM_UNROLL _Pragma("GCC unroll 16")

namespace nm {
namespace NM_ISA {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int count = NM_VECTOR_BYTES / 4;
  typedef float V __attribute__((vector_size(NM_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(NM_VECTOR_BYTES), aligned(4)));
  typedef int32_t Bits __attribute__((vector_size(NM_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  static constexpr int count = NM_VECTOR_BYTES / 8;
  typedef double V __attribute__((vector_size(NM_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(NM_VECTOR_BYTES), aligned(8)));
  typedef int64_t Bits __attribute__((vector_size(NM_VECTOR_BYTES)));
};

template <class T>
using Vec = typename Simd<T>::V;

template <class T>
constexpr int W = Simd<T>::count;

template <class T>
NM_INLINE Vec<T> load(const T* p) {
  return (Vec<T>)*(const typename Simd<T>::Unaligned*)p;
}

template <class T>
NM_INLINE void store(T* p, Vec<T> v) {
  *(typename Simd<T>::Unaligned*)p = v;
}

// How many lanes of a block are in use: all of them (known to the compiler), or a number for the last block.
struct AllLanes {};

template <class T>
NM_INLINE Vec<T> load(const T* p, AllLanes) {
  return load(p);
}

template <class T>
NM_INLINE void store(T* p, Vec<T> v, AllLanes) {
  store(p, v);
}

#if defined(__AVX512F__)
// With masks: copies of some bytes are calls, and what was written in pieces is slow to be read as a whole. By halves: a
// load waits for all cache lines that it reaches, and a store takes them from other threads, with the lanes that the mask
// leaves out.
NM_INLINE __mmask8 first_lanes(int lanes) {
  return (__mmask8)((1u << lanes) - 1);
}

NM_INLINE Vec<float> load(const float* p, int lanes) {  // the lanes that are not in use are zero
  if (lanes <= 8) return (Vec<float>)_mm512_zextps256_ps512(_mm256_maskz_loadu_ps(first_lanes(lanes), p));
  const __m512 whole = _mm512_castps256_ps512(_mm256_loadu_ps(p));
  return (Vec<float>)_mm512_insertf32x8(whole, _mm256_maskz_loadu_ps(first_lanes(lanes - 8), p + 8), 1);
}

NM_INLINE Vec<double> load(const double* p, int lanes) {
  if (lanes <= 4) return (Vec<double>)_mm512_zextpd256_pd512(_mm256_maskz_loadu_pd(first_lanes(lanes), p));
  const __m512d whole = _mm512_castpd256_pd512(_mm256_loadu_pd(p));
  return (Vec<double>)_mm512_insertf64x4(whole, _mm256_maskz_loadu_pd(first_lanes(lanes - 4), p + 4), 1);
}

NM_INLINE void store(float* p, Vec<float> v, int lanes) {
  const __m256 low = _mm512_castps512_ps256((__m512)v);
  if (lanes <= 8) return _mm256_mask_storeu_ps(p, first_lanes(lanes), low);
  _mm256_storeu_ps(p, low);
  _mm256_mask_storeu_ps(p + 8, first_lanes(lanes - 8), _mm512_extractf32x8_ps((__m512)v, 1));
}

NM_INLINE void store(double* p, Vec<double> v, int lanes) {
  const __m256d low = _mm512_castpd512_pd256((__m512d)v);
  if (lanes <= 4) return _mm256_mask_storeu_pd(p, first_lanes(lanes), low);
  _mm256_storeu_pd(p, low);
  _mm256_mask_storeu_pd(p + 4, first_lanes(lanes - 4), _mm512_extractf64x4_pd((__m512d)v, 1));
}
#else
template <class T>
NM_INLINE Vec<T> load(const T* p, int lanes) {  // the lanes that are not in use are zero
  Vec<T> v = {};
  memcpy(&v, p, lanes * sizeof(T));
  return v;
}

template <class T>
NM_INLINE void store(T* p, Vec<T> v, int lanes) {
  memcpy(p, &v, lanes * sizeof(T));
}
#endif

// Calls `body` with the lanes of the block that begins at `first` of `count` elements.
template <class T, class Body>
NM_INLINE void with_lanes(int64_t first, int64_t count, Body body) {
  if (count - first >= W<T>)
    body(AllLanes());
  else
    body(int(count - first));
}

template <class T>
NM_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};
}

template <class V>
NM_INLINE V min(V a, V b) {
  return a < b ? a : b;
}

template <class V>
NM_INLINE V max(V a, V b) {
  return a > b ? a : b;
}

template <class V>
NM_INLINE V abs(V a) {
  return a < V{} ? -a : a;
}

// ---- exponentials ----

// 2^f on [-1/2, 1/2] as 1 + f (c[0] + f (c[1] + ...)), so that 2^0 = 1 exactly.
template <class T>
struct Exp2;

template <>
struct Exp2<float> {
  static constexpr int degree = 5;  // minimax, relative error 9.3e-8
  static constexpr float c[degree] = {0x1.62e42ap-1f, 0x1.ebf9c2p-3f, 0x1.c6b6d8p-5f, 0x1.3ce8bp-7f, 0x1.5bda7ap-10f};
  static constexpr int mantissa = 23;
  static constexpr float limit = 126;  // 2^x is a normal number for |x| up to here
  static constexpr float ln2_high = 0x1.62e4p-1f,
                         ln2_low = 0x1.7f7d1cp-20f;  // products of high and an exponent are exact
};

template <>
struct Exp2<double> {
  static constexpr int degree = 13;  // Taylor: ln(2)^k / k!, relative error 5e-18
  static constexpr double c[degree] = {
      0x1.62e42fefa39efp-1,  0x1.ebfbdff82c58fp-3,  0x1.c6b08d704a0cp-5,   0x1.3b2ab6fba4e77p-7,  0x1.5d87fe78a6731p-10,
      0x1.430912f86c787p-13, 0x1.ffcbfc588b0c7p-17, 0x1.62c0223a5c824p-20, 0x1.b5253d395e7c4p-24, 0x1.e4cf5158b8ecap-28,
      0x1.e8cac7351bb25p-32, 0x1.c3bd650fc2986p-36, 0x1.816193166d0f9p-40};
  static constexpr int mantissa = 52;
  static constexpr double limit = 1022;
  static constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
};

// Adding this rounds to an integer and leaves it, plus the bias of an exponent, in the low bits.
template <class T>
constexpr T rounding = T(3) * (int64_t(1) << (Exp2<T>::mantissa - 1)) + T(Exp2<T>::limit + 1);

// (2^f - 1) / f
template <class T>
NM_INLINE Vec<T> exp2_series(Vec<T> f) {
  Vec<T> p = splat<T>(Exp2<T>::c[Exp2<T>::degree - 1]);
  NM_UNROLL for (int k = Exp2<T>::degree - 2; k >= 0; k--) p = p * f + Exp2<T>::c[k];
  return p;
}

// 2^i, where `shifted` is i + rounding.
template <class T>
NM_INLINE Vec<T> power_of_two(Vec<T> shifted) {
  return (Vec<T>)((typename Simd<T>::Bits)shifted << Exp2<T>::mantissa);
}

// 2^(a b) = 2^i (1 + rest), where `shifted` is i + rounding: that way a decay very close to 1 keeps the digits of its
// distance from 1, which thousands of steps add up. Without CLAMP the product is fused into the range reduction (where
// there is FMA), not rounded alone, and |a b| must be at most Exp2::limit; with it, smaller powers become 0 and larger
// ones infinite.
template <class T, bool CLAMP>
NM_INLINE Vec<T> clamped_product(Vec<T> a, Vec<T> b) {
  return CLAMP ? max(min(a * b, splat<T>(Exp2<T>::limit + 2)), splat<T>(-Exp2<T>::limit - 1)) : a * b;
}

template <class T, bool CLAMP>
NM_INLINE Vec<T> exponent_of_product(Vec<T> a, Vec<T> b) {
  return clamped_product<T, CLAMP>(a, b) + rounding<T>;
}

template <class T, bool CLAMP>
NM_INLINE Vec<T> rest_of_product(Vec<T> a, Vec<T> b, Vec<T> shifted) {
  Vec<T> f = clamped_product<T, CLAMP>(a, b) - (shifted - rounding<T>);
  return f * exp2_series<T>(f);
}

// h 2^i (1 + rest)
template <class T>
NM_INLINE Vec<T> decayed(Vec<T> h, Vec<T> shifted, Vec<T> rest) {
  return (h + h * rest) * power_of_two<T>(shifted);
}

// Of exp(x) for x <= 0: f and i + rounding with x = (f + i) ln(2), f to the last bits.
template <class T>
NM_INLINE void reduce_negative(Vec<T> x, Vec<T>& f, Vec<T>& shifted) {
  constexpr T log2e = T(1.44269504088896340736);
  x = max(x, splat<T>(-Exp2<T>::limit / log2e));
  shifted = x * log2e + rounding<T>;
  Vec<T> i = shifted - rounding<T>;
  f = (x - i * Exp2<T>::ln2_high - i * Exp2<T>::ln2_low) * log2e;
}

template <class T>
NM_INLINE Vec<T> exp_of_minus_abs(Vec<T> x) {
  Vec<T> f, shifted;
  reduce_negative<T>(-abs(x), f, shifted);
  return decayed<T>(splat<T>(1), shifted, f * exp2_series<T>(f));
}

// log(1 + w) for 0 <= w <= 1, with a small relative error down to w = 0: 2 atanh(s), s = w / (2 + w) <= 1/3.
template <class T>
NM_INLINE Vec<T> log1p(Vec<T> w) {
  constexpr int terms = sizeof(T) == 4 ? 8 : 17;
  Vec<T> s = w / (w + T(2)), s2 = s * s;
  Vec<T> series = splat<T>(T(1) / (2 * terms - 1));
  NM_UNROLL for (int k = terms - 2; k >= 0; k--) series = series * s2 + T(1) / (2 * k + 1);
  return T(2) * s * series;
}

template <class T>
NM_INLINE Vec<T> softplus(Vec<T> x) {
  return max(Vec<T>{}, x) + log1p<T>(exp_of_minus_abs<T>(x));  // in this order NaN stays NaN
}

// The derivative of softplus where its value is y: 1 - exp(-y), with a small relative error down to y = 0.
template <class T>
NM_INLINE Vec<T> softplus_derivative_at(Vec<T> y) {
  Vec<T> f, shifted;
  reduce_negative<T>(-y, f, shifted);
  Vec<T> power = power_of_two<T>(shifted);
  return (T(1) - power) - power * (f * exp2_series<T>(f));
}

// For very negative x this is e / (1 + e), which keeps its relative accuracy; 1 - 1 / (1 + e) would not.
template <class T>
NM_INLINE Vec<T> sigmoid(Vec<T> x) {
  Vec<T> e = exp_of_minus_abs<T>(x);
  return (x < Vec<T>{} ? e : splat<T>(1)) / (e + T(1));
}

template <class T>
NM_INLINE Vec<T> silu(Vec<T> x) {
  return x * sigmoid<T>(x);
}

template <class T>
NM_INLINE Vec<T> silu_derivative(Vec<T> x, Vec<T> sigmoid_of_x) {
  return sigmoid_of_x * (T(1) + x * (T(1) - sigmoid_of_x));
}

// ---- sums over lanes ----

// Lanes with bit S of their number clear: a[l] + a[l + S]; the others: b[l - S] + b[l].
template <class T, int S, int... L>
NM_INLINE Vec<T> add_halves(Vec<T> a, Vec<T> b, std::integer_sequence<int, L...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (L & S ? W<T> + L - S : L)...) +
         __builtin_shufflevector(a, b, (L & S ? W<T> + L : L + S)...);
#else
  typedef typename Simd<T>::Bits Bits;
  return __builtin_shuffle(a, b, Bits{(L & S ? W<T> + L - S : L)...}) +
         __builtin_shuffle(a, b, Bits{(L & S ? W<T> + L : L + S)...});
#endif
}

template <class T, int S>
NM_INLINE void fold(Vec<T>* v) {
  if constexpr (S > 0) {
    NM_UNROLL for (int i = 0; i < S; i++) v[i] =
        add_halves<T, S>(v[i], v[i + S], std::make_integer_sequence<int, W<T>>());
    fold<T, S / 2>(v);
  }
}

// Of as many vectors as one has lanes: lane i of the result is the sum of vector i.
template <class T>
NM_INLINE Vec<T> sums(const Vec<T>* vectors) {
  Vec<T> v[W<T>];
  NM_UNROLL for (int i = 0; i < W<T>; i++) v[i] = vectors[i];
  fold<T, W<T> / 2>(v);
  return v[0];
}

// ---- prefetching ----

// A function that prefetches, given t < count, what the rows hold of token t from a channel on; absent rows are passed
// over. To be called once a step of the arithmetic before: all at once, prefetches would only wait for each other. It
// and whatever calls it have to be inlined: a function that only prefetches counts as one without effect.
template <class... Views>
NM_INLINE auto prefetcher(int64_t b, int64_t k, const int32_t* tokens, int64_t count, int64_t channel, Views... rows) {
  return [=](int64_t t) NM_INLINED {
    if (t < count) ((rows.data ? __builtin_prefetch(rows.row(b, k, tokens[t]) + channel) : void()), ...);
  };
}

// ---- scratch ----

// Hands out 64-byte aligned pieces of the scratch; from null, it measures them.
struct Arena {
  char* next;

  template <class U>
  U* take(int64_t count) {
    U* piece = (U*)next;
    next += (count * sizeof(U) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace NM_ISA
}  // namespace nm
