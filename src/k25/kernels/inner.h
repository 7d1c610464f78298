// What one instruction set offers to operators.cpp: plain loops over memory, no threads, no tensors.
//
// Packed weights: outputs in blocks of 16, padded with zeros; a 32-bit lane belongs to one output.
//   bf16: word (block, pair, lane) holds inputs 2 * pair (low half) and 2 * pair + 1 (high half); inputs padded to 16.
//   INT4: word (block, octet, lane) holds eight nibbles q + 8: inputs 0, 2, 4, 6 of the octet from the lowest nibble up,
//         then 1, 3, 5, 7; bf16 scales (block, group of 32 inputs, lane).
//   Compressed bf16: the same words in 12 bits per weight. A block begins with lines of a header: 16 high bytes, then a
//         list of exceptions that ends with ~0, each a weight's place in the block and, in the lowest byte, its high byte.
//         Units of 16 inputs follow: the low bytes of their 256 weights and 256 nibbles, numbers of high bytes.
#pragma once
#include <cstdint>

namespace k25 {

using bf16 = uint16_t;
constexpr int LANES = 16;
constexpr int CHUNK = 4;      // blocks of outputs that one call computes
constexpr int ROW_TILE = 32;  // activation rows that one call for a chunk serves
constexpr int HEAD_GROUP = 16;
constexpr int KEY_BLOCK = 64;
constexpr int LINE = 64;  // bytes that memory moves at once
constexpr int UNIT_INPUTS = 16, UNIT_WEIGHTS = UNIT_INPUTS * LANES, UNIT_WORDS = UNIT_WEIGHTS / 2;
constexpr int UNIT_BYTES = UNIT_WEIGHTS * 3 / 2, UNIT_LINES = UNIT_BYTES / LINE;
constexpr int TABLE_WORDS = 4;

// The low byte of a unit's weight stands where interleaving it with its high byte, 16 bytes by 16, gives packed words.
constexpr int low_byte_of(int weight) { return weight / 64 * 64 + weight % 32 / 8 * 16 + weight % 64 / 32 * 8 + weight % 8; }
// Nibbles of 128 weights share 64 bytes, the first half of them the lower nibbles.
constexpr int code_byte_of(int weight) { return UNIT_WEIGHTS + weight / 128 * 64 + low_byte_of(weight) % 64; }
constexpr int code_shift_of(int weight) { return weight % 128 / 64 * 4; }

struct Matrix {
  const uint32_t* words;
  const bf16* scales;  // null: bf16 weights
  int64_t inputs;      // padded
  int header;          // lines of a compressed block's header; 0: not compressed

  int64_t words_per_block() const {
    if (header) return header * LANES + inputs / UNIT_INPUTS * UNIT_BYTES / 4;
    return inputs * LANES / (scales ? 8 : 2);
  }
};

// Neighbouring blocks of a matrix, at most CHUNK: what one work item computes.
struct Part {
  Matrix matrix;
  int64_t block;
  int blocks;
  const uint32_t* next;  // words of as many blocks, which are read after these; null: none

  const uint32_t* words() const { return matrix.words + block * matrix.words_per_block(); }
  // What to fetch at the end of each block; where nothing follows, its own words again: they are in the cache.
  const uint32_t* ahead() const { return next ? next : words(); }
};

// Activations (rows, padded inputs): bf16 where the kernels multiply bf16, else float.
struct Rows {
  const void* data;
  int64_t stride;  // in values
  bool half;  // bf16

  int64_t stride_bytes() const { return stride * int64_t(half ? sizeof(bf16) : sizeof(float)); }
  Rows from(int64_t row) const { return {(const char*)data + row * stride_bytes(), stride, half}; }
};

// One query token and up to HEAD_GROUP of its heads over one sequence's cached rows.
struct Attention {
  const void* query;  // (heads, width): bf16 where the kernels multiply bf16 and the cache is bf16, else float
  int64_t query_stride;
  const void* cache;  // (pages, page_size, width)
  const int32_t* table;
  int64_t page_size, context, width, values;
  int heads;
  bool wide_cache;  // float
  float scale;
  float* mix;  // scratch (HEAD_GROUP, mix_stride)
  int64_t mix_stride;  // values, padded to 32
  float* out;  // (heads, values)
};

struct Best {
  int64_t place;
  float value;
};

struct Kernels {
  const char* name;
  bool dots_bf16;  // multiplies bf16 by bf16; false: widens weights to float
  // out (count, 64) = the first `count` rows times the part. count <= ROW_TILE.
  void (*product)(const Part&, const Rows&, int count, float* out);
  // The same with rows of float, multiplied in float on every CPU; bf16 matrices only.
  void (*exact_product)(const Part&, const Rows&, int count, float* out);
  void (*swiglu)(const float* gate, const float* up, int64_t count, float* out);  // count a multiple of LANES
  void (*attend)(const Attention&);
  void (*normalise)(const float* x, const float* gain, int64_t count, float eps, float* out);
  void (*to_bf16)(const float* from, int64_t count, bf16* to);
  void (*to_float)(const bf16* from, int64_t count, float* to);
  void (*add_scaled)(const float* x, float weight, int64_t count, float* sum);
  Best (*best)(const float* x, int64_t count);
  float (*log_sum_exp)(const float* x, int64_t count);
};

extern const Kernels portable;
extern const Kernels avx2;
extern const Kernels avx512;
extern const Kernels avx512_bf16;
extern const Kernels amx_bf16;

}  // namespace k25
