// Vectors of 16 lanes for inner.cpp: loads, conversions, exp, and the bf16 dot product where there is one.
#pragma once
#include "inner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace k25 {
namespace {

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef bf16 v16h __attribute__((vector_size(32)));

#if defined(__AVX512BF16__)
constexpr bool DOTS = true;
#else
constexpr bool DOTS = false;
#endif
#if defined(__AVX512F__)
constexpr bool MANY_REGISTERS = true;
#else
constexpr bool MANY_REGISTERS = false;
#endif
template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}
template <class V>
inline V load_part(const void* from, size_t bytes) {
  if (bytes == sizeof(V)) return load<V>(from);
  V value{};
  std::memcpy(&value, from, bytes);
  return value;
}
inline void store(float* to, v16f value) { std::memcpy(to, &value, sizeof(value)); }
inline v16f splat(float value) { return v16f{} + value; }
inline v16f widen(v16h value) { return (v16f)(__builtin_convertvector(value, v16u) << 16); }
inline v16h narrow(v16f value) {  // to nearest, ties to even
#if defined(__AVX512BF16__)
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
  return load<v16h>(&rounded);
#else
  const v16u bits = (v16u)value, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return __builtin_convertvector(value == value ? rounded : v16u{} + 0x7fc0, v16h);
#endif
}

// run(first, lanes) over `count` values: whole vectors, then what is left.
template <class F>
inline void for_vectors(int64_t count, const F& run) {
  for (int64_t i = 0; i < count; i += LANES) run(i, std::min<int64_t>(LANES, count - i));
}

// exp to about 1e-7 relative on -87..88; beyond, the bound's value.
inline v16f exponential(v16f x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  x = x > 88.0f ? splat(88.0f) : x;
  const v16f shifter = splat(12582912.0f), shifted = x * 1.44269504f + shifter, turns = shifted - shifter;
  const v16f r = (x - turns * 0.693359375f) + turns * 2.12194440e-4f;
  v16f sum = r * (1.0f / 5040) + 1.0f / 720;
  for (float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + term;
  return sum * (v16f)(((v16i)shifted - (v16i)shifter + 127) << 23);
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
