// Vectors of 16 lanes for inner.cpp: loads, conversions, exp, and the bf16 dot product where there is one.
#pragma once
#include "inner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace k25 {
namespace {

#if defined(__AVX512BF16__)
constexpr bool DOTS = true;
#else
constexpr bool DOTS = false;
#endif
#if defined(__AVX512F__)
constexpr bool MANY_REGISTERS = true;
typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef bf16 v16h __attribute__((vector_size(32)));

template <class To, class From>
inline To same_bits(From from) { return (To)from; }
template <class To, class From>
inline To convert(From from) { return __builtin_convertvector(from, To); }
template <class M, class V>
inline V select(M where, V yes, V no) { return where ? yes : no; }
template <int BIT, class V>  // lane l becomes lane l ^ BIT
inline V swap_lanes(V a) {
  V other;
  for (int l = 0; l < LANES; ++l) other[l] = a[l ^ BIT];
  return other;
}
template <int BIT>  // lane l: lanes l and l ^ BIT of `a` where that bit of l is clear, of `b` where it is set
inline v16f fold(v16f a, v16f b) {
  v16i own, other;
  for (int l = 0; l < LANES; ++l) own[l] = l + (l & BIT ? LANES : 0), other[l] = (l ^ BIT) + (l & BIT ? LANES : 0);
#if defined(__clang__)
  v16f first, second;
  for (int l = 0; l < LANES; ++l) {
    first[l] = own[l] < LANES ? a[own[l]] : b[own[l] - LANES];
    second[l] = other[l] < LANES ? a[other[l]] : b[other[l] - LANES];
  }
  return first + second;
#else
  return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
#endif
}
#else
// Two registers. Compilers would take vectors that are wider than a register apart through memory, at a tenth of the speed.
constexpr bool MANY_REGISTERS = false;
template <class T>
struct Half;
template <>
struct Half<float> { typedef float type __attribute__((vector_size(32))); };
template <>
struct Half<int32_t> { typedef int32_t type __attribute__((vector_size(32))); };
template <>
struct Half<uint32_t> { typedef uint32_t type __attribute__((vector_size(32))); };
template <>
struct Half<bf16> { typedef bf16 type __attribute__((vector_size(16))); };

template <class T>
struct Wide {
  using H = typename Half<T>::type;
  H low, high;
  T operator[](int lane) const { return lane < LANES / 2 ? low[lane] : high[lane - LANES / 2]; }
  Wide operator-() const { return {-low, -high}; }
#define K25_OPERATOR(op)                                                                                      \
  friend Wide operator op(const Wide& a, const Wide& b) { return {a.low op b.low, a.high op b.high}; }        \
  friend Wide operator op(const Wide& a, T b) { return {a.low op b, a.high op b}; }                           \
  friend Wide operator op(T a, const Wide& b) { return {a op b.low, a op b.high}; }                           \
  Wide& operator op##=(const Wide& b) { return *this = *this op b; }                                          \
  Wide& operator op##=(T b) { return *this = *this op b; }
  K25_OPERATOR(+) K25_OPERATOR(-) K25_OPERATOR(*) K25_OPERATOR(/)
  K25_OPERATOR(&) K25_OPERATOR(|) K25_OPERATOR(<<) K25_OPERATOR(>>)
#undef K25_OPERATOR
#define K25_COMPARISON(op)                                                                                             \
  friend Wide<int32_t> operator op(const Wide& a, const Wide& b) { return {a.low op b.low, a.high op b.high}; }        \
  friend Wide<int32_t> operator op(const Wide& a, T b) { return {a.low op b, a.high op b}; }
  K25_COMPARISON(==) K25_COMPARISON(!=) K25_COMPARISON(<) K25_COMPARISON(>)
#undef K25_COMPARISON
};
using v16f = Wide<float>;
using v16i = Wide<int32_t>;
using v16u = Wide<uint32_t>;
using v16h = Wide<bf16>;

template <class To, class From>
inline To same_bits(From from) { return {(typename To::H)from.low, (typename To::H)from.high}; }
template <class To, class From>
inline To convert(From from) {
  using H = typename To::H;
  return {__builtin_convertvector(from.low, H), __builtin_convertvector(from.high, H)};
}
template <class M, class V>
inline V select(M where, V yes, V no) { return {where.low ? yes.low : no.low, where.high ? yes.high : no.high}; }
template <int BIT, class V>  // lane l becomes lane l ^ BIT
inline V swap_lanes(V a) {
  if constexpr (BIT == LANES / 2) return {a.high, a.low};
  else {
    V other;
    for (int l = 0; l < LANES / 2; ++l) other.low[l] = a.low[l ^ BIT], other.high[l] = a.high[l ^ BIT];
    return other;
  }
}
template <int BIT>  // lane l: lanes l and l ^ BIT of `a` where that bit of l is clear, of `b` where it is set
inline v16f fold(v16f a, v16f b) {
  if constexpr (BIT == LANES / 2) return {a.low + a.high, b.low + b.high};
  else {
    Half<int32_t>::type clear;
    for (int l = 0; l < LANES / 2; ++l) clear[l] = l & BIT ? 0 : -1;
    const v16i where{clear, clear};
    return select(where, a, b) + swap_lanes<BIT>(select(where, b, a));
  }
}
#endif

template <class V>
inline V load(const void* from) {
  if constexpr (requires { typename V::H; }) {
    using H = typename V::H;
    return {load<H>(from), load<H>((const char*)from + sizeof(H))};
  } else {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
  }
}
template <class V>
inline V load_part(const void* from, size_t bytes) {
  if (bytes == sizeof(V)) return load<V>(from);
  V value{};
  std::memcpy(&value, from, bytes);
  return value;
}
#if defined(__AVX512F__)
inline void store(float* to, v16f value) { std::memcpy(to, &value, sizeof(value)); }
#else
inline void store(float* to, v16f value) {
  std::memcpy(to, &value.low, sizeof(value.low));
  std::memcpy(to + LANES / 2, &value.high, sizeof(value.high));
}
#endif
inline v16f splat(float value) { return v16f{} + value; }
inline v16f widen(v16h value) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  const v16u bits{(v16u::H)_mm256_cvtepu16_epi32((__m128i)value.low), (v16u::H)_mm256_cvtepu16_epi32((__m128i)value.high)};
#else
  const v16u bits = convert<v16u>(value);
#endif
  return same_bits<v16f>(bits << 16);
}
inline v16h narrow(v16f value) {  // to nearest, ties to even
#if defined(__AVX512BF16__)
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
  return load<v16h>(&rounded);
#else
  const v16u bits = same_bits<v16u>(value), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return convert<v16h>(select(value == value, rounded, v16u{} + 0x7fc0));
#endif
}

// run(first, lanes) over `count` values: whole vectors, whose number of lanes is a constant, then what is left.
template <class F>
inline void for_vectors(int64_t count, const F& run) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) run(i, std::integral_constant<int64_t, LANES>());
  if (i < count) run(i, count - i);
}

// exp to about 1e-7 relative on -87..88; beyond, the bound's value.
inline v16f exponential(v16f x) {
  x = select(x < -87.0f, splat(-87.0f), x);
  x = select(x > 88.0f, splat(88.0f), x);
  const v16f shifter = splat(12582912.0f), shifted = x * 1.44269504f + shifter, turns = shifted - shifter;
  const v16f r = (x - turns * 0.693359375f) + turns * 2.12194440e-4f;
  v16f sum = r * (1.0f / 5040) + 1.0f / 720;
  for (float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + term;
  return sum * same_bits<v16f>((same_bits<v16i>(shifted) - same_bits<v16i>(shifter) + 127) << 23);
}

#if defined(__AVX512BF16__)
inline v16f dot_pairs(v16f sum, v16u weights, uint32_t pair) {
  return (v16f)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(int(pair)));
}
inline v16f dot_pairs(v16f sum, v16u left, v16u right) {
  return (v16f)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
}
inline v16u nibble_pairs(v16u words, int j) {  // -8..7 as bf16; five index bits, so the table stands twice
  const __m512i table = _mm512_set_epi16(
      0x40e0, 0x40c0, 0x40a0, 0x4080, 0x4040, 0x4000, 0x3f80, 0, -0x4080, -0x4000, -0x3fc0, -0x3f80, -0x3f60, -0x3f40,
      -0x3f20, -0x3f00, 0x40e0, 0x40c0, 0x40a0, 0x4080, 0x4040, 0x4000, 0x3f80, 0, -0x4080, -0x4000, -0x3fc0, -0x3f80,
      -0x3f60, -0x3f40, -0x3f20, -0x3f00);
  return (v16u)_mm512_permutexvar_epi16(_mm512_srli_epi16((__m512i)words, unsigned(4 * j)), table);
}
inline void store_bf16(void* to, v16f first, v16f second) {
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  std::memcpy(to, &both, sizeof(both));
}
#else
inline void store_bf16(void*, v16f, v16f) {}
inline v16f dot_pairs(v16f sum, v16u, uint32_t) { return sum; }
inline v16f dot_pairs(v16f sum, v16u, v16u) { return sum; }
inline v16u nibble_pairs(v16u words, int) { return words; }
#endif

}  // namespace
}  // namespace k25
