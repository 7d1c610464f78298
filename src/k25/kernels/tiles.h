// Products on AMX tiles: two-dimensional registers of up to 16 rows of 64 bytes, which the packed layout fills as it lies.
// A tile of weights is 16 pairs of inputs by 16 outputs, one of activations up to 16 rows by 32 inputs, one of sums as
// many rows by 16 outputs in float32. Denormal values count as zero.
#pragma once
#include "compressed.h"

#include <optional>

#if defined(__AMX_BF16__)
namespace k25 {
namespace {

constexpr int TILE_ROWS = 16;
constexpr int TILE_INPUTS = 32;
constexpr int TILE_WORDS = TILE_INPUTS / 2 * LANES;
// Tiles 0 to 3 hold sums: of four blocks, or of two for twice as many rows. Then activations, and weights in turns.
constexpr int ACTIVATIONS = 4, WEIGHTS = 6;
static_assert(CHUNK == 4 && ROW_TILE == 2 * TILE_ROWS);

// Tiles belong to the thread, and other libraries shape them as well: every product sets them and lets them go.
class Tiles {
 public:
  explicit Tiles(int rows) {
    alignas(64) struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {};
    } shape;
    const bool two = rows > TILE_ROWS;
    const auto first = uint8_t(two ? TILE_ROWS : rows), second = uint8_t(two ? rows - TILE_ROWS : rows);
    for (int tile : {0, 1, ACTIVATIONS}) shape.rows[tile] = first;
    for (int tile : {2, 3, ACTIVATIONS + 1}) shape.rows[tile] = second;
    shape.rows[WEIGHTS] = shape.rows[WEIGHTS + 1] = TILE_INPUTS / 2;
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
// Tile SUMS += activations of some rows times the weights that are loaded.
template <int SUMS, int ROWS, int LOADED>
inline void add_products() {
  __asm__ volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(LOADED), "i"(ACTIVATIONS + ROWS), "i"(SUMS));
}

// Activations of up to 16 rows: loaded where they lie if their rows are equally far apart, else copied tile by tile.
class Gathered {
 public:
  Gathered(const Rows& x, const int32_t* index, int count) : count_(count) {
    for (int m = 0; m < count; ++m) rows_[m] = (const bf16*)x.data + index[m] * x.stride;
    const int64_t step = count > 1 ? index[1] - index[0] : 0;
    for (int m = 1; m < count; ++m) even_ &= index[m] - index[m - 1] == step;
    step_ = step * x.stride * sizeof(bf16);
  }

  // `inputs` of each row from `first` on, zeros behind them.
  template <int TILE>
  void load(int64_t first, int64_t inputs) {
    if (even_ && inputs == TILE_INPUTS) {
      load_tile<TILE>(rows_[0] + first, step_);
      return;
    }
    for (int m = 0; m < count_; ++m) {
      const auto part = load_part<v16u>(rows_[m] + first, inputs * sizeof(bf16));
      std::memcpy(copy_[m], &part, sizeof(part));
    }
    load_tile<TILE>(copy_, sizeof(copy_[0]));
  }

 private:
  const bf16* rows_[TILE_ROWS];
  const int count_;
  bool even_ = true;
  int64_t step_;
  alignas(64) bf16 copy_[TILE_ROWS][TILE_INPUTS];
};

// run.template operator()<n>() for n = 0..blocks - 1.
template <class F>
inline void for_blocks(int blocks, const F& run) {
  run.template operator()<0>();
  if (blocks > 1) run.template operator()<1>();
  if (blocks > 2) run.template operator()<2>();
  if (blocks > 3) run.template operator()<3>();
}

// Tiles of weights where they lie packed; what follows them is fetched.
class PackedTiles {
 public:
  PackedTiles(const Part& part, int first)
      : inputs_(part.matrix.inputs), block_words_(part.matrix.words_per_block()), words_(part.words() + first * block_words_),
        ahead_(part.ahead() + first * block_words_) {}

  template <int N>
  void prepare(int64_t) {}

  // Of block N from input k on; of the last half tile, a copy with zeros.
  template <int N>
  const uint32_t* tile(int64_t k) {
    const int64_t from = N * block_words_ + k / 2 * LANES, left = std::min<int64_t>(TILE_INPUTS, inputs_ - k);
    for (int line = 0; line < left / 2; ++line) __builtin_prefetch(ahead_ + from + line * LANES, 0, 2);
    if (left == TILE_INPUTS) return words_ + from;
    const int64_t words = left / 2 * LANES;
    std::memcpy(last_[N], words_ + from, words * sizeof(uint32_t));
    std::memset(last_[N] + words, 0, (TILE_WORDS - words) * sizeof(uint32_t));
    return last_[N];
  }

 private:
  const int64_t inputs_, block_words_;
  const uint32_t *words_, *ahead_;
  alignas(64) uint32_t last_[CHUNK][TILE_WORDS];
};

class CompressedTiles {
 public:
  CompressedTiles(const Part& part, int first, int blocks) : inputs_(part.matrix.inputs) {
    for (int n = 0; n < blocks; ++n)
      blocks_[n] = {part.matrix, part.block + first + n, part.ahead() + (first + n) * part.matrix.words_per_block()};
  }

  template <int N>
  void prepare(int64_t k) {
    uint32_t* to = words_[k / TILE_INPUTS % 2][N];
    blocks_[N].next(to);
    if (k + TILE_INPUTS <= inputs_) blocks_[N].next(to + UNIT_WORDS);
    else std::memset(to + UNIT_WORDS, 0, UNIT_WORDS * sizeof(uint32_t));
  }

  template <int N>
  const uint32_t* tile(int64_t k) {
    return words_[k / TILE_INPUTS % 2][N];
  }

 private:
  const int64_t inputs_;
  CompressedBlock blocks_[CHUNK];
  // Two sets in turns, so that no tile waits for what was just written.
  alignas(64) uint32_t words_[2][CHUNK][TILE_WORDS];
};

// Some blocks: four for one tile of rows, two for two.
template <class Source>
void tile_product(Source&& source, int64_t inputs, int blocks, Gathered& first, Gathered* second, float* out) {
  for_blocks(blocks, [&]<int N>() {
    clear_tile<N>();
    if (second) clear_tile<2 + N % 2>();
  });
  for (int64_t k = 0; k < inputs; k += TILE_INPUTS) {
    const int64_t here = std::min<int64_t>(TILE_INPUTS, inputs - k);
    first.load<ACTIVATIONS>(k, here);
    if (second) second->load<ACTIVATIONS + 1>(k, here);
    for_blocks(blocks, [&]<int N>() { source.template prepare<N>(k); });
    for_blocks(blocks, [&]<int N>() {
      constexpr int LOADED = WEIGHTS + N % 2;
      load_tile<LOADED>(source.template tile<N>(k), LANES * sizeof(uint32_t));
      add_products<N, 0, LOADED>();
      if (second) add_products<2 + N % 2, 1, LOADED>();
    });
  }
  constexpr int64_t STRIDE = CHUNK * LANES;
  for_blocks(blocks, [&]<int N>() {
    store_tile<N>(out + N * LANES, STRIDE * sizeof(float));
    if (second) store_tile<2 + N % 2>(out + TILE_ROWS * STRIDE + N * LANES, STRIDE * sizeof(float));
  });
}

// A group's integers times activations are summed on tiles, then scaled and added in float32.
void int4_tile_product(const Part& part, Gathered& rows, int count, float* out) {
  const Matrix& matrix = part.matrix;
  const int blocks = part.blocks;
  const int64_t groups = matrix.inputs / TILE_INPUTS, group_words = 4 * LANES;
  const uint32_t *words = part.words(), *ahead = part.ahead();
  alignas(64) uint32_t unpacked[CHUNK][TILE_WORDS];
  alignas(64) float sums[CHUNK][TILE_ROWS * LANES];
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
    rows.load<ACTIVATIONS>(g * TILE_INPUTS, TILE_INPUTS);
    for_blocks(blocks, [&]<int N>() {
      constexpr int LOADED = WEIGHTS + N % 2;
      clear_tile<N>();
      load_tile<LOADED>(unpacked[N], LANES * sizeof(uint32_t));
      add_products<N, 0, LOADED>();
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

void int4_product_on_tiles(Part part, const Rows& x, const int32_t* index, int count, float* out) {
  for (int first = 0; first < count; first += TILE_ROWS) {
    const int here = std::min(TILE_ROWS, count - first);
    const Tiles tiles(here);
    Gathered rows(x, index + first, here);
    int4_tile_product(part, rows, here, out + first * CHUNK * LANES);
    part.next = nullptr;
  }
}

void product_on_tiles(const Part& part, const Rows& x, const int32_t* index, int count, float* out) {
  if (part.matrix.scales) return int4_product_on_tiles(part, x, index, count, out);
  const Tiles tiles(count);
  const bool two = count > TILE_ROWS;
  Gathered first(x, index, two ? TILE_ROWS : count);
  std::optional<Gathered> second;
  if (two) second.emplace(x, index + TILE_ROWS, count - TILE_ROWS);
  const int step = two ? 2 : CHUNK;
  for (int block = 0; block < part.blocks; block += step) {
    const int blocks = std::min(step, part.blocks - block);
    const auto run = [&](auto&& source) {
      tile_product(source, part.matrix.inputs, blocks, first, two ? &*second : nullptr, out + block * LANES);
    };
    if (part.matrix.header) run(CompressedTiles(part, block, blocks));
    else run(PackedTiles(part, block));
  }
}

}  // namespace
}  // namespace k25
#endif
