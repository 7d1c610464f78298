// Compressed bf16 weights as the kernels read them: packed words again, 16 inputs of a block at a time.
#pragma once
#include "fetcher.h"
#include "vectors.h"

namespace k25 {
namespace {

// A unit's packed words; see low_byte_of and code_byte_of.
#if defined(__AVX512BW__)
inline void expand_unit(const uint8_t* unit, const uint8_t* table, uint32_t* to) {
  const __m512i high_bytes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512i both = _mm512_loadu_si512(unit + UNIT_WEIGHTS + 64 * i);
    const __m512i code[2] = {_mm512_and_si512(both, nibble), _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble)};
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512i high = _mm512_shuffle_epi8(high_bytes, code[j]), lows = _mm512_loadu_si512(unit + 64 * (2 * i + j));
      _mm512_storeu_si512(to + LANES * (4 * i + 2 * j), _mm512_unpacklo_epi8(lows, high));
      _mm512_storeu_si512(to + LANES * (4 * i + 2 * j + 1), _mm512_unpackhi_epi8(lows, high));
    }
  }
}
#elif defined(__AVX2__)
inline void expand_unit(const uint8_t* unit, const uint8_t* table, uint32_t* to) {
  const __m256i high_bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table)), nibble = _mm256_set1_epi8(15);
  for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i both = _mm256_loadu_si256((const __m256i*)(unit + UNIT_WEIGHTS + 64 * i + 32 * half));
      const __m256i code[2] = {_mm256_and_si256(both, nibble), _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble)};
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m256i high = _mm256_shuffle_epi8(high_bytes, code[j]);
        const __m256i lows = _mm256_loadu_si256((const __m256i*)(unit + 64 * (2 * i + j) + 32 * half));
        uint32_t* row = to + LANES * (4 * i + 2 * j) + 8 * half;
        _mm256_storeu_si256((__m256i*)row, _mm256_unpacklo_epi8(lows, high));
        _mm256_storeu_si256((__m256i*)(row + LANES), _mm256_unpackhi_epi8(lows, high));
      }
    }
}
#else
inline void expand_unit(const uint8_t* unit, const uint8_t* table, uint32_t* to) {
  for (int i = 0; i < UNIT_WEIGHTS; ++i) {
    const uint8_t high = table[unit[code_byte_of(i)] >> code_shift_of(i) & 15];
    const bf16 weight = bf16(high << 8 | unit[low_byte_of(i)]);
    std::memcpy((char*)to + i * sizeof(weight), &weight, sizeof(weight));
  }
}
#endif

// Block n of a part, read from its first input on.
class CompressedBlock {
 public:
  CompressedBlock() = default;
  CompressedBlock(const Part& part, int n) {
    const Matrix& matrix = part.matrix;
    const int64_t words = matrix.words_per_block(), header_words = matrix.header * LANES;
    const uint32_t *block = part.words() + n * words, *next = part.ahead() + n * words;
    table_ = (const uint8_t*)block, exception_ = block + TABLE_WORDS, unit_ = (const uint8_t*)(block + header_words);
    fetcher_ = {unit_, words / LANES - matrix.header, next + header_words};
    for (int line = 0; line < matrix.header; ++line) __builtin_prefetch(next + line * LANES);
  }

  // The words of the next 16 inputs.
  void next(uint32_t* to) {
    expand_unit(unit_, table_, to);
    unit_ += UNIT_BYTES;
    fetcher_.fetch<UNIT_LINES>();
    const uint32_t end = first_ + (UNIT_WEIGHTS << 8);
    for (; *exception_ < end; ++exception_) ((uint8_t*)to)[(*exception_ - first_) / 256 * 2 + 1] = uint8_t(*exception_);
    first_ = end;
  }

 private:
  const uint8_t* table_;
  const uint32_t* exception_;
  const uint8_t* unit_;
  Fetcher fetcher_;
  uint32_t first_ = 0;  // place of the next weight, as exceptions have it
};

}  // namespace
}  // namespace k25
