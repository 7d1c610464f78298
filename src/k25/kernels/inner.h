// What one instruction set offers to operators.cpp: plain loops over memory, no threads, no tensors.
//
// Packed weights: outputs in blocks of 16, padded with zeros; a 32-bit lane belongs to one output.
//   bf16: word (block, pair, lane) holds inputs 2 * pair (low half) and 2 * pair + 1 (high half); inputs padded to 16.
//   INT4: word (block, octet, lane) holds eight nibbles q + 8: inputs 0, 2, 4, 6 of the octet from the lowest nibble up,
//         then 1, 3, 5, 7; bf16 scales (block, group of 32 inputs, lane).
#pragma once
#include <cstdint>

namespace k25 {

using bf16 = uint16_t;
constexpr int LANES = 16;
constexpr int CHUNK = 4;      // blocks of outputs that one call computes
constexpr int ROW_TILE = 16;  // activation rows that one call for a chunk serves
constexpr int HEAD_GROUP = 16;
constexpr int KEY_BLOCK = 64;

struct Matrix {
  const uint32_t* words;
  const bf16* scales;  // null: bf16 weights
  int64_t inputs;      // padded

  int64_t words_per_block() const { return inputs * LANES / (scales ? 8 : 2); }
};

// Neighbouring blocks of a matrix, at most CHUNK: what one work item computes.
struct Part {
  Matrix matrix;
  int64_t block;
  int blocks;
  const uint32_t* next;  // words to fetch meanwhile, as many as this part has; null: none

  const uint32_t* words() const { return matrix.words + block * matrix.words_per_block(); }
  // Where nothing follows, its own words again: they are in the cache.
  const uint32_t* ahead() const { return next ? next : words(); }
};

// Activations (rows, padded inputs): bf16 where the kernels multiply bf16, else float.
struct Rows {
  const void* data;
  int64_t stride;  // in values
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
  // out (count, 64) = rows[index] times the part. count <= ROW_TILE.
  void (*product)(const Part&, const Rows&, const int32_t* index, int count, float* out);
  // The same with rows of float, multiplied in float on every CPU; bf16 matrices only.
  void (*exact_product)(const Part&, const Rows&, const int32_t* index, int count, float* out);
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
