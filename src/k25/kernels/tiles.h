// Products on AMX tiles: two-dimensional registers of up to 16 rows of 64 bytes, which the packed layout fills as it lies.
// A tile of weights is 16 pairs of inputs by 16 outputs, one of activations up to 16 rows by 32 inputs, one of sums as
// many rows by 16 outputs in float32. Denormal values count as zero.
#pragma once
#include "vectors.h"

#if defined(__AMX_BF16__)
namespace k25 {
namespace {

constexpr int TILE_INPUTS = 32;
constexpr int TILE_WORDS = TILE_INPUTS / 2 * LANES;
constexpr int ACTIVATIONS = 4;  // tiles 0 to 3 hold the sums of a chunk's blocks, 5 and 6 weights in turns
static_assert(CHUNK == 4 && ROW_TILE <= 16);

// Tiles belong to the thread, and other libraries shape them as well: every product sets them and lets them go.
class Tiles {
 public:
  explicit Tiles(int rows) {
    alignas(64) struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile <= ACTIVATIONS; ++tile) shape.rows[tile] = uint8_t(rows);
    shape.rows[5] = shape.rows[6] = TILE_INPUTS / 2;
    __asm__ volatile("ldtilecfg %0" ::"m"(shape));
  }
  ~Tiles() { __asm__ volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
};

// The instructions themselves: numbers of tiles are part of them, which the compilers' own functions take as literals only.
template <int TILE>
inline void load_tile(const void* from, int64_t stride_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(TILE) : "memory");
}
template <int TILE>
inline void store_tile(float* to, int64_t stride_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(TILE) : "memory");
}
template <int TILE>
inline void clear_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
// Tile SUMS += activations times the weights at `words`.
template <int SUMS>
inline void add_products(const uint32_t* words) {
  constexpr int WEIGHTS = 5 + SUMS % 2;
  load_tile<WEIGHTS>(words, LANES * sizeof(uint32_t));
  __asm__ volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(WEIGHTS), "i"(ACTIVATIONS), "i"(SUMS));
}

// Activations of one product: loaded where they lie if their rows are equally far apart, else copied tile by tile.
class Gathered {
 public:
  Gathered(const Rows& x, const int32_t* index, int count) : count_(count) {
    for (int m = 0; m < count; ++m) rows_[m] = (const bf16*)x.data + index[m] * x.stride;
    const int64_t step = count > 1 ? index[1] - index[0] : 0;
    for (int m = 1; m < count; ++m) even_ &= index[m] - index[m - 1] == step;
    step_ = step * x.stride * sizeof(bf16);
  }

  // `inputs` of each row from `first` on, zeros behind them.
  void load(int64_t first, int64_t inputs) {
    if (even_ && inputs == TILE_INPUTS) {
      load_tile<ACTIVATIONS>(rows_[0] + first, step_);
      return;
    }
    for (int m = 0; m < count_; ++m) {
      const auto part = load_part<v16u>(rows_[m] + first, inputs * sizeof(bf16));
      std::memcpy(copy_[m], &part, sizeof(part));
    }
    load_tile<ACTIVATIONS>(copy_, sizeof(copy_[0]));
  }

 private:
  const bf16* rows_[ROW_TILE];
  const int count_;
  bool even_ = true;
  int64_t step_;
  alignas(64) bf16 copy_[ROW_TILE][TILE_INPUTS];
};

// run.template operator()<n>() for n = 0..blocks - 1.
template <class F>
inline void for_blocks(int blocks, const F& run) {
  run.template operator()<0>();
  if (blocks > 1) run.template operator()<1>();
  if (blocks > 2) run.template operator()<2>();
  if (blocks > 3) run.template operator()<3>();
}

void tile_product(const Part& part, Gathered& rows, float* out) {
  const Matrix& matrix = part.matrix;
  const int blocks = part.blocks;
  const int64_t block_words = matrix.words_per_block();
  const uint32_t *words = part.words(), *ahead = part.ahead();
  for_blocks(blocks, []<int N>() { clear_tile<N>(); });
  int64_t k = 0;
  for (; k + TILE_INPUTS <= matrix.inputs; k += TILE_INPUTS) {
    rows.load(k, TILE_INPUTS);
    for_blocks(blocks, [&]<int N>() {
      const int64_t from = N * block_words + k / 2 * LANES;
      add_products<N>(words + from);
      for (int line = 0; line < TILE_INPUTS / 2; ++line) __builtin_prefetch(ahead + from + line * LANES, 0, 2);
    });
  }
  if (k < matrix.inputs) {
    rows.load(k, matrix.inputs - k);
    alignas(64) uint32_t last[CHUNK][TILE_WORDS] = {};
    for (int n = 0; n < blocks; ++n)
      std::memcpy(last[n], words + n * block_words + k / 2 * LANES, (matrix.inputs - k) / 2 * LANES * sizeof(uint32_t));
    for_blocks(blocks, [&]<int N>() { add_products<N>(last[N]); });
  }
  for_blocks(blocks, [&]<int N>() { store_tile<N>(out + N * LANES, CHUNK * LANES * sizeof(float)); });
}

// A group's integers times activations are summed on tiles, then scaled and added in float32.
void int4_tile_product(const Part& part, Gathered& rows, int count, float* out) {
  const Matrix& matrix = part.matrix;
  const int blocks = part.blocks;
  const int64_t groups = matrix.inputs / TILE_INPUTS, group_words = 4 * LANES;
  const uint32_t *words = part.words(), *ahead = part.ahead();
  alignas(64) uint32_t unpacked[CHUNK][TILE_WORDS];
  alignas(64) float sums[CHUNK][ROW_TILE * LANES];
  for (int m = 0; m < count; ++m) std::memset(out + m * CHUNK * LANES, 0, blocks * LANES * sizeof(float));
  for (int64_t g = 0; g < groups; ++g) {
    for (int n = 0; n < blocks; ++n) {
#pragma GCC unroll 4
      for (int octet = 0; octet < 4; ++octet) {
        const int64_t from = (n * groups + g) * group_words + octet * LANES;
        const auto word = load<v16u>(words + from);
        __builtin_prefetch(ahead + from, 0, 2);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const v16u pairs = nibble_pairs(word, j);
          std::memcpy(&unpacked[n][(4 * octet + j) * LANES], &pairs, sizeof(pairs));
        }
      }
    }
    rows.load(g * TILE_INPUTS, TILE_INPUTS);
    for_blocks(blocks, [&]<int N>() {
      clear_tile<N>();
      add_products<N>(unpacked[N]);
    });
    for_blocks(blocks, [&]<int N>() { store_tile<N>(sums[N], LANES * sizeof(float)); });
    for (int n = 0; n < blocks; ++n) {
      const v16f scale = widen(load<v16h>(matrix.scales + ((part.block + n) * groups + g) * LANES));
      for (int m = 0; m < count; ++m) {
        float* total = out + m * CHUNK * LANES + n * LANES;
        store(total, load<v16f>(total) + load<v16f>(&sums[n][m * LANES]) * scale);
      }
    }
  }
}

void product_on_tiles(const Part& part, const Rows& x, const int32_t* index, int count, float* out) {
  const Tiles tiles(count);
  Gathered rows(x, index, count);
  if (part.matrix.scales) int4_tile_product(part, rows, count, out);
  else tile_product(part, rows, out);
}

}  // namespace
}  // namespace k25
#endif
