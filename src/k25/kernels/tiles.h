// Products on AMX tiles: two-dimensional registers of up to 16 rows of 64 bytes, which the packed layout fills as it lies.
// A tile of weights is 16 pairs of inputs by 16 outputs, one of activations up to 16 rows by 32 inputs, one of sums as
// many rows by 16 outputs in float32. Denormal values count as zero.
#pragma once
#include "compressed.h"

#include <utility>

#if defined(__AMX_BF16__) || defined(__AMXBF16__)  // the latter: older clang
#define K25_TILES
namespace k25 {
namespace {

constexpr int TILE_ROWS = 16;
constexpr int TILE_INPUTS = 32;
constexpr int TILE_WORDS = TILE_INPUTS / 2 * LANES;
// Tiles 0 to 3 hold sums: of four blocks, or of two for twice as many rows. Then activations, and weights in turns.
constexpr int SUMS = 4, ACTIVATIONS = 4, WEIGHTS = 6;
static_assert(CHUNK == SUMS && ROW_TILE == 2 * TILE_ROWS);

// run.template operator()<i>() for i = 0..COUNT - 1.
template <int COUNT, class F>
inline void unrolled(const F& run) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (run.template operator()<I>(), ...); }(std::make_integer_sequence<int, COUNT>());
}

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
    for (int tile : {0, 2, ACTIVATIONS}) shape.rows[tile] = first;
    for (int tile : {1, 3, ACTIVATIONS + 1}) shape.rows[tile] = second;
    shape.rows[WEIGHTS] = shape.rows[WEIGHTS + 1] = TILE_INPUTS / 2;
    __asm__ volatile("ldtilecfg %0" ::"m"(shape));
  }
  ~Tiles() { __asm__ volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
};

// The instructions themselves: numbers of tiles are part of them, which the compilers' own functions take as literals only.
// A load is told to read the bytes of a tile that lie together, so that nothing else is read anew after it; rows that lie
// apart are never written here.
struct TileBytes {
  char bytes[TILE_WORDS * 4];
};
template <int TILE>
inline void load_tile(const void* from, int64_t stride_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(TILE), "m"(*(const TileBytes*)from));
}
template <int TILE>
inline void store_tile(float* to, int64_t stride_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(TILE) : "memory");
}
template <int TILE>
inline void clear_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
// Tile TO += activations of some rows times the weights that are loaded.
template <int TO, int ROWS, int LOADED>
inline void add_products() {
  __asm__ volatile("tdpbf16ps %%tmm%c0, %%tmm%c1, %%tmm%c2" ::"i"(LOADED), "i"(ACTIVATIONS + ROWS), "i"(TO));
}

// `inputs` of up to 16 rows from k on, zeros behind them.
template <int TILE>
inline void load_activations(const bf16* rows, int64_t stride, int count, int64_t k, int64_t inputs) {
  if (k + TILE_INPUTS <= inputs) return load_tile<TILE>(rows + k, stride * sizeof(bf16));
  alignas(64) bf16 copy[TILE_ROWS][TILE_INPUTS] = {};
  for (int m = 0; m < count; ++m) std::memcpy(copy[m], rows + m * stride + k, TILE_INPUTS / 2 * sizeof(bf16));
  load_tile<TILE>(copy, sizeof(copy[0]));
}

// Sources of weights have `prepare<N>(k)` and then `tile<N>(k)`, of block N from input k on.

// Where they lie packed.
class PackedTiles {
 public:
  PackedTiles(const Part& part, int first, int blocks)
      : inputs_(part.matrix.inputs), block_words_(part.matrix.words_per_block()), words_(part.words() + first * block_words_) {
    for (int n = 0; n < blocks; ++n) fetchers_[n] = fetcher(part, first + n);
  }

  // Of the last half tile, a copy with zeros.
  template <int N>
  void prepare(int64_t k) {
    fetchers_[N].template fetch<TILE_WORDS / 2 / LANES>();
    if (k + TILE_INPUTS <= inputs_) fetchers_[N].template fetch<TILE_WORDS / 2 / LANES>();
    else std::memcpy(last_[N], words_ + N * block_words_ + k / 2 * LANES, sizeof(last_[N]) / 2);
  }
  template <int N>
  const uint32_t* tile(int64_t k) const {
    return k + TILE_INPUTS <= inputs_ ? words_ + N * block_words_ + k / 2 * LANES : last_[N];
  }

 private:
  const int64_t inputs_, block_words_;
  const uint32_t* words_;
  Fetcher fetchers_[CHUNK];
  alignas(64) uint32_t last_[CHUNK][TILE_WORDS] = {};
};

// Made in the first-level cache, one set while the other is read.
class MadeTiles {
 public:
  template <int N>
  const uint32_t* tile(int64_t k) const {
    return words_[k / TILE_INPUTS % 2][N];
  }

 protected:
  template <int N>
  uint32_t* made(int64_t k) {
    return words_[k / TILE_INPUTS % 2][N];
  }

 private:
  alignas(64) uint32_t words_[2][CHUNK][TILE_WORDS];
};

class CompressedTiles : public MadeTiles {
 public:
  CompressedTiles(const Part& part, int first, int blocks) : inputs_(part.matrix.inputs) {
    for (int n = 0; n < blocks; ++n) blocks_[n] = {part, first + n};
  }

  template <int N>
  void prepare(int64_t k) {
    uint32_t* to = made<N>(k);
    blocks_[N].next(to);
    if (k + TILE_INPUTS <= inputs_) blocks_[N].next(to + UNIT_WORDS);
    else std::memset(to + UNIT_WORDS, 0, UNIT_WORDS * sizeof(uint32_t));
  }

 private:
  const int64_t inputs_;
  CompressedBlock blocks_[CHUNK];
};

// Integers of a group, without their scale.
class Int4Tiles : public MadeTiles {
 public:
  Int4Tiles(const Part& part, int first, int blocks)
      : block_words_(part.matrix.words_per_block()), words_(part.words() + first * block_words_) {
    for (int n = 0; n < blocks; ++n) fetchers_[n] = fetcher(part, first + n);
  }

  template <int N>
  void prepare(int64_t k) {
    fetchers_[N].template fetch<TILE_INPUTS / 8>();
#pragma GCC unroll 4
    for (int octet = 0; octet < TILE_INPUTS / 8; ++octet) {
      const auto word = load<v16u>(words_ + N * block_words_ + (k / 8 + octet) * LANES);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const v16u pairs = nibble_pairs(word, j);
        std::memcpy(made<N>(k) + (4 * octet + j) * LANES, &pairs, sizeof(pairs));
      }
    }
  }

 private:
  const int64_t block_words_;
  const uint32_t* words_;
  Fetcher fetchers_[CHUNK];
};

// BLOCKS blocks times ROWS tiles of rows.
template <int ROWS, int BLOCKS, class Source>
struct TileProduct {
  Source& weights;
  const bf16* x;
  int64_t stride;
  int count;
  int64_t inputs;

  template <class F>
  static void each_sum(const F& run) {
    unrolled<BLOCKS>([&]<int N>() { unrolled<ROWS>([&]<int R>() { run.template operator()<N * ROWS + R, N, R>(); }); });
  }
  static void clear() {
    each_sum([]<int SUM, int, int>() { clear_tile<SUM>(); });
  }
  // Rows of sums are `stride` values apart, blocks `apart`.
  static void store(float* to, int64_t stride, int64_t apart) {
    each_sum([&]<int SUM, int N, int R>() { store_tile<SUM>(to + R * TILE_ROWS * stride + N * apart, stride * sizeof(float)); });
  }
  void prepare() {
    unrolled<BLOCKS>([&]<int N>() { weights.template prepare<N>(0); });
  }
  // Adds 32 inputs. A tile that is made cannot be loaded before it is written, so the next ones are made first.
  void add(int64_t k) {
    load_rows<0>(k);
    unrolled<BLOCKS>([&]<int N>() {
      constexpr int LOADED = WEIGHTS + N % 2;
      if (k + TILE_INPUTS < inputs) weights.template prepare<N>(k + TILE_INPUTS);
      load_tile<LOADED>(weights.template tile<N>(k), LANES * sizeof(uint32_t));
      unrolled<ROWS>([&]<int R>() {
        if constexpr (N == 0 && R > 0) load_rows<R>(k);
        add_products<N * ROWS + R, R, LOADED>();
      });
    });
  }
  template <int R>
  void load_rows(int64_t k) {
    constexpr int FIRST = R * TILE_ROWS;
    load_activations<ACTIVATIONS + R>(x + FIRST * stride, stride, std::min(TILE_ROWS, count - FIRST), k, inputs);
  }

  void run(float* out) {
    prepare();
    clear();
    for (int64_t k = 0; k < inputs; k += TILE_INPUTS) add(k);
    store(out, CHUNK * LANES, LANES);
  }

  // scales: of each block, (groups, lane). A group's integers times activations are summed on tiles, then scaled and added
  // in float32.
  void run_scaled(const bf16* scales, float* out) {
    const int64_t groups = inputs / TILE_INPUTS;
    alignas(64) float sums[BLOCKS][ROWS * TILE_ROWS][LANES];
    for (int m = 0; m < count; ++m) std::memset(out + m * CHUNK * LANES, 0, BLOCKS * LANES * sizeof(float));
    prepare();
    for (int64_t g = 0; g < groups; ++g) {
      clear();
      add(g * TILE_INPUTS);
      store(sums[0][0], LANES, ROWS * TILE_ROWS * LANES);
      for (int n = 0; n < BLOCKS; ++n) {
        const v16f scale = widen(load<v16h>(scales + (n * groups + g) * LANES));
        for (int m = 0; m < count; ++m) {
          float* total = out + m * CHUNK * LANES + n * LANES;
          k25::store(total, load<v16f>(total) + load<v16f>(sums[n][m]) * scale);
        }
      }
    }
  }
};

template <int ROWS, int BLOCKS>
void blocks_product(const Part& part, int first, const Rows& x, int count, float* out) {
  const Matrix& matrix = part.matrix;
  const auto product = [&]<class Source>(Source&& weights) {
    return TileProduct<ROWS, BLOCKS, Source>{weights, (const bf16*)x.data, x.stride, count, matrix.inputs};
  };
  if (matrix.scales)
    product(Int4Tiles(part, first, BLOCKS)).run_scaled(matrix.scales + (part.block + first) * matrix.inputs / TILE_INPUTS * LANES, out);
  else if (matrix.header) product(CompressedTiles(part, first, BLOCKS)).run(out);
  else product(PackedTiles(part, first, BLOCKS)).run(out);
}

template <int ROWS>
void rows_product(const Part& part, const Rows& x, int count, float* out) {
  constexpr int MOST = SUMS / ROWS;
  int first = 0;
  for (; first + MOST <= part.blocks; first += MOST) blocks_product<ROWS, MOST>(part, first, x, count, out + first * LANES);
  for (; first < part.blocks; ++first) blocks_product<ROWS, 1>(part, first, x, count, out + first * LANES);
}

void product_on_tiles(const Part& part, const Rows& x, int count, float* out) {
  const Tiles tiles(count);
  (count > TILE_ROWS ? rows_product<2> : rows_product<1>)(part, x, count, out);
}

}  // namespace
}  // namespace k25
#endif
