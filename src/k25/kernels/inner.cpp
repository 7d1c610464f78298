// The loops, compiled once per instruction set with K25_VARIANT naming the table of functions.
//
// Vectors are 16 lanes wide everywhere; the compiler splits them into what the instruction set has. Only the bf16 dot
// product needs intrinsics. Every sum runs over its inputs in one fixed order, so a row's result does not depend on
// which other rows are computed with it.
#include "compressed.h"
#include "tiles.h"

namespace k25 {
namespace {

constexpr int GROUP = 32;  // INT4 weights to a scale
enum class Format { BF16, COMPRESSED, INT4 };

// M rows times N blocks of 16 outputs, eight inputs at a time.
template <int M, int N, Format FORMAT, bool WIDE>
void tile(const Part& part, int block, const Rows& x, int first, int count, float* out) {
  using X = std::conditional_t<WIDE, float, bf16>;
  constexpr bool INT4 = FORMAT == Format::INT4, COMPRESSED = FORMAT == Format::COMPRESSED;
  constexpr int SPAN = INT4 ? GROUP : COMPRESSED ? UNIT_INPUTS : 8, LINES_PER_OCTET = INT4 ? 1 : 4;
  const X* rows[M];
  for (int m = 0; m < M; ++m) rows[m] = (const X*)x.data + (first + std::min(m, count - 1)) * x.stride;
  const Matrix& matrix = part.matrix;
  const int64_t words_per_block = matrix.words_per_block();
  const uint32_t* words = part.words() + block * words_per_block;
  std::conditional_t<COMPRESSED, CompressedBlock, Fetcher> blocks[N];
  alignas(64) uint32_t unit[N][UNIT_WORDS];
  for (int n = 0; n < N; ++n) {
    if constexpr (COMPRESSED) blocks[n] = {part, block + n};
    else blocks[n] = fetcher(part, block + n);
  }
  v16f total[M][N] = {};
  for (int64_t k = 0; k < matrix.inputs; k += SPAN) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      if constexpr (COMPRESSED) blocks[n].next(unit[n]);
      else blocks[n].template fetch<SPAN / 8 * LINES_PER_OCTET>();
    }
    v16f group[M][N] = {};
    auto& sum = INT4 ? group : total;
#pragma GCC unroll 4
    for (int octet = 0; octet < SPAN / 8; ++octet) {
      const int64_t at = (k / 8 + octet) * LINES_PER_OCTET * LANES;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const int64_t input = k + octet * 8 + 2 * j;
        v16u word[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          if constexpr (COMPRESSED) {
            word[n] = load<v16u>(unit[n] + (4 * octet + j) * LANES);
          } else {
            word[n] = load<v16u>(words + at + n * words_per_block + (INT4 ? 0 : j * LANES));
            if constexpr (INT4 && !WIDE) word[n] = nibble_pairs(word[n], j);
          }
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          if constexpr (!WIDE) {
            const auto pair = load<uint32_t>(rows[m] + input);
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) sum[m][n] = dot_pairs(sum[m][n], word[n], pair);
          } else {
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) {
              const v16f even = INT4 ? convert<v16f>(same_bits<v16i>(word[n] >> (4 * j) & 15)) - 8.0f
                                     : same_bits<v16f>(word[n] << 16);
              const v16f odd = INT4 ? convert<v16f>(same_bits<v16i>(word[n] >> (16 + 4 * j) & 15)) - 8.0f
                                    : same_bits<v16f>(word[n] & 0xffff0000u);
              sum[m][n] += even * rows[m][input];
              sum[m][n] += odd * rows[m][input + 1];
            }
          }
        }
      }
    }
    if constexpr (INT4) {
      for (int n = 0; n < N; ++n) {
        const v16f scale =
            widen(load<v16h>(matrix.scales + ((part.block + block + n) * (matrix.inputs / GROUP) + k / GROUP) * LANES));
        for (int m = 0; m < M; ++m) total[m][n] += group[m][n] * scale;
      }
    }
  }
  for (int m = 0; m < std::min(M, count); ++m)
    for (int n = 0; n < N; ++n) store(out + m * CHUNK * LANES + n * LANES, total[m][n]);
}

template <int M, Format FORMAT, bool WIDE>
void row_tile(const Part& part, const Rows& x, int first, int count, float* out) {
  constexpr int N = MANY_REGISTERS ? (M <= 4 ? 4 : 2) : (M <= 2 ? 2 : 1);
  int done = 0;
  const auto run = [&](auto step, const auto& some) {
    for (; done + step <= part.blocks; done += step)
      some(part, done, x, first, count, out + done * LANES);
  };
  run(N, tile<M, N, FORMAT, WIDE>);
  run(1, tile<M, 1, FORMAT, WIDE>);
}

template <Format FORMAT, bool WIDE>
void rows_tile(Part part, const Rows& x, int count, float* out) {
  constexpr int MOST = MANY_REGISTERS ? 8 : 4;
  for (int first = 0; first < count; first += MOST) {
    const int rows = std::min(MOST, count - first);
    float* to = out + first * CHUNK * LANES;
    const auto run = rows == 1 ? row_tile<1, FORMAT, WIDE> : rows == 2 ? row_tile<2, FORMAT, WIDE>
                   : rows <= 4 ? row_tile<4, FORMAT, WIDE> : rows <= 6 ? row_tile<6, FORMAT, WIDE>
                               : row_tile<8, FORMAT, WIDE>;
    run(part, x, first, rows, to);
    part.next = nullptr;
  }
}

void product(const Part& part, const Rows& x, int count, float* out) {
#if defined(K25_TILES)
  product_on_tiles(part, x, count, out);
#else
  const auto run = part.matrix.scales   ? rows_tile<Format::INT4, !DOTS>
                   : part.matrix.header ? rows_tile<Format::COMPRESSED, !DOTS>
                                        : rows_tile<Format::BF16, !DOTS>;
  run(part, x, count, out);
#endif
}

void exact_product(const Part& part, const Rows& x, int count, float* out) {
  (part.matrix.header ? rows_tile<Format::COMPRESSED, true> : rows_tile<Format::BF16, true>)(part, x, count, out);
}

void swiglu(const float* gate, const float* up, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += LANES) {
    const v16f g = load<v16f>(gate + i);
    store(out + i, g / (1.0f + exponential(-g)) * load<v16f>(up + i));
  }
}

inline float maximum(v16f a) {
  auto with = [&](v16f b) { a = select(a > b, a, b); };
  with(swap_lanes<8>(a));
  with(swap_lanes<4>(a));
  with(swap_lanes<2>(a));
  with(swap_lanes<1>(a));
  return a[0];
}

inline v16f sums_of_16(v16f* v) {  // lane l: the sum of v[l]
  for (int i = 0; i < 8; ++i) v[i] = fold<8>(v[i], v[i + 8]);
  for (int i = 0; i < 4; ++i) v[i] = fold<4>(v[i], v[i + 4]);
  for (int i = 0; i < 2; ++i) v[i] = fold<2>(v[i], v[i + 2]);
  return fold<1>(v[0], v[1]);
}

// How attention reads cached rows: DOT as bf16 pairs, else widened to float from K.
template <bool DOT, class K>
struct Reader {
  using V = std::conditional_t<DOT, v16u, v16f>;
  static constexpr int STEP = DOT ? 2 * LANES : LANES;  // values per vector
  static V key(const K* from, int64_t count = STEP) {  // zeros from `count` on
    using Raw = std::conditional_t<DOT, v16u, std::conditional_t<sizeof(K) == 4, v16f, v16h>>;
    const Raw raw = count == STEP ? load<Raw>(from) : load_part<Raw>(from, count * sizeof(K));
    if constexpr (std::is_same_v<Raw, v16h>) return widen(raw);
    else return raw;
  }
};

template <bool DOT, class K>
void scores(const Attention& a, const K* const* keys, int count, float (*out)[KEY_BLOCK]) {
  using R = Reader<DOT, K>;
  using Q = std::conditional_t<DOT, bf16, float>;
  constexpr int SIDE = MANY_REGISTERS ? 4 : 2;  // of the square of sums that stays in registers
  for (int h = 0; h < a.heads; h += 4)
    for (int k = 0; k < count; k += 4) {
      v16f sums[16];
      const Q* query[4];
      const K* key[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        query[i] = (const Q*)a.query + std::min(h + i, a.heads - 1) * a.query_stride;
        key[i] = keys[std::min(k + i, count - 1)];
      }
      for (int i0 = 0; i0 < 4; i0 += SIDE)
        for (int j0 = 0; j0 < 4; j0 += SIDE) {
          v16f sum[SIDE][SIDE] = {};
          const auto step = [&](int64_t b, auto... part) __attribute__((always_inline)) {
            typename R::V loaded[SIDE];
#pragma GCC unroll 4
            for (int j = 0; j < SIDE; ++j) loaded[j] = R::key(key[j0 + j] + b, part...);
#pragma GCC unroll 4
            for (int i = 0; i < SIDE; ++i) {
              const auto asked = Reader<DOT, Q>::key(query[i0 + i] + b, part...);
#pragma GCC unroll 4
              for (int j = 0; j < SIDE; ++j) {
                if constexpr (DOT) sum[i][j] = dot_pairs(sum[i][j], asked, loaded[j]);
                else sum[i][j] += asked * loaded[j];
              }
            }
          };
          int64_t b = 0;
          for (; b + R::STEP <= a.width; b += R::STEP) step(b);
          if (b < a.width) step(b, a.width - b);
#pragma GCC unroll 4
          for (int i = 0; i < SIDE; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < SIDE; ++j) sums[4 * (i0 + i) + j0 + j] = sum[i][j];
        }
      const v16f all = sums_of_16(sums) * a.scale;
      for (int i = 0; i < 4 && h + i < a.heads; ++i)
        for (int j = 0; j < 4 && k + j < count; ++j) out[h + i][k + j] = all[4 * i + j];
    }
}

// out (heads, ld) += weights (heads, count) times the rows' first `values` columns; `weights` is zero from count to even.
template <bool DOT, class K, int HEADS>
void weighted_rows(const Attention& a, const K* const* keys, int count, int first, const float (*weights)[KEY_BLOCK],
                   const uint32_t (*pairs)[KEY_BLOCK / 2], float* out, int64_t ld) {
  constexpr int STEP = DOT ? 2 * LANES : LANES, PARTS = DOT ? 2 : 1;
  for (int64_t c = 0; c < a.values; c += STEP) {
    v16f sum[HEADS][PARTS];
#pragma GCC unroll 8
    for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 2
      for (int p = 0; p < PARTS; ++p) sum[h][p] = load<v16f>(out + (first + h) * ld + c + p * LANES);
    const int64_t left = std::min<int64_t>(STEP, a.width - c);
    if constexpr (DOT) {
#if defined(__AVX512BF16__)
      v16u lanes;
      for (uint32_t l = 0; l < LANES; ++l) lanes[l] = l | (l + 32) << 16;
      const __m512i low = (__m512i)lanes, high = (__m512i)(lanes + (LANES | LANES << 16));
      for (int k = 0; k < count; k += 2) {
        const __m512i one = (__m512i)Reader<true, K>::key(keys[k] + c, left);
        const __m512i two = (__m512i)Reader<true, K>::key(keys[std::min(k + 1, count - 1)] + c, left);
        const v16u part[2] = {(v16u)_mm512_permutex2var_epi16(one, low, two),
                              (v16u)_mm512_permutex2var_epi16(one, high, two)};
#pragma GCC unroll 8
        for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 2
          for (int p = 0; p < 2; ++p) sum[h][p] = dot_pairs(sum[h][p], part[p], pairs[first + h][k / 2]);
      }
#endif
    } else {
      for (int k = 0; k < count; ++k) {
        const v16f row = Reader<false, K>::key(keys[k] + c, left);
#pragma GCC unroll 8
        for (int h = 0; h < HEADS; ++h) sum[h][0] += row * weights[first + h][k];
      }
    }
#pragma GCC unroll 8
    for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 2
      for (int p = 0; p < PARTS; ++p) store(out + (first + h) * ld + c + p * LANES, sum[h][p]);
  }
}

// Online softmax over blocks of keys (arXiv 1805.02867), one shared key for all heads. In the DOT form the weights are
// rounded to bf16, as the cached rows are; their sum is taken before rounding.
template <bool DOT, class K>
void attend_rows(const Attention& a) {
  const int64_t ld = a.mix_stride;
  float* mix = a.mix;
  std::memset(mix, 0, (a.heads + 7) / 8 * 8 * ld * sizeof(float));
  float largest[HEAD_GROUP];
  v16f total[HEAD_GROUP] = {};
  for (float& value : largest) value = -INFINITY;
  alignas(64) float weights[HEAD_GROUP][KEY_BLOCK] = {};
  alignas(64) uint32_t pairs[HEAD_GROUP][KEY_BLOCK / 2] = {};
  for (int64_t start = 0; start < a.context; start += KEY_BLOCK) {
    const int count = int(std::min<int64_t>(KEY_BLOCK, a.context - start));
    const K* keys[KEY_BLOCK];
    for (int k = 0; k < count; ++k) {
      const int64_t at = start + k;
      keys[k] = (const K*)a.cache + (a.table[at / a.page_size] * a.page_size + at % a.page_size) * a.width;
    }
    scores<DOT, K>(a, keys, count, weights);
    const int padded = (count + 2 * LANES - 1) / (2 * LANES) * 2 * LANES;
    for (int h = 0; h < a.heads; ++h) {
      for (int k = count; k < padded; ++k) weights[h][k] = -INFINITY;
      v16f most = load<v16f>(weights[h]);
      for (int k = LANES; k < padded; k += LANES) {
        const v16f next = load<v16f>(weights[h] + k);
        most = select(most > next, most, next);
      }
      const float peak = std::max(largest[h], maximum(most));
      if (peak > largest[h]) {
        if (start > 0) {
          const float shrink = std::exp(largest[h] - peak);
          for (int64_t c = 0; c < ld; c += LANES) store(mix + h * ld + c, load<v16f>(mix + h * ld + c) * shrink);
          total[h] = total[h] * shrink;
        }
        largest[h] = peak;
      }
      for (int k = 0; k < padded; k += LANES) {
        const v16f raw = load<v16f>(weights[h] + k);
        const v16f weight = select(raw == -INFINITY, v16f{}, exponential(raw - peak));
        total[h] += weight;
        store(weights[h] + k, weight);
      }
      if constexpr (DOT)
        for (int k = 0; k < padded; k += 2 * LANES)
          store_bf16(&pairs[h][k / 2], load<v16f>(weights[h] + k), load<v16f>(weights[h] + k + LANES));
    }
    const bool eight = MANY_REGISTERS && a.heads > 4;
    for (int h = 0; h < a.heads; h += eight ? 8 : 4)
      (eight ? weighted_rows<DOT, K, 8> : weighted_rows<DOT, K, 4>)(a, keys, count, h, weights, pairs, mix, ld);
  }
  for (int h = 0; h < a.heads; ++h) {
    float sum = 0;
    for (int l = 0; l < LANES; ++l) sum += total[h][l];
    const float inverse = a.context > 0 ? 1 / sum : 0.0f;
    for_vectors(a.values, [&](int64_t c, auto lanes) {
      const v16f part = load<v16f>(mix + h * ld + c) * inverse;
      std::memcpy(a.out + h * a.values + c, &part, lanes * sizeof(float));
    });
  }
}

void attend(const Attention& a) {
  if (a.wide_cache) return attend_rows<false, float>(a);
  attend_rows<DOTS, bf16>(a);
}

// Root-mean-square normalisation: gain * x / sqrt(mean(x^2) + eps).
void normalise(const float* x, const float* gain, int64_t count, float eps, float* out) {
  v16f squares{};
  for_vectors(count, [&](int64_t i, auto lanes) {
    const v16f part = load_part<v16f>(x + i, lanes * sizeof(float));
    squares += part * part;
  });
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += squares[l];
  const float inverse = 1 / std::sqrt(sum / float(count) + eps);
  for_vectors(count, [&](int64_t i, auto lanes) {
    const v16f scaled = load_part<v16f>(x + i, lanes * sizeof(float)) * inverse * load_part<v16f>(gain + i, lanes * sizeof(float));
    std::memcpy(out + i, &scaled, lanes * sizeof(float));
  });
}

void to_bf16(const float* from, int64_t count, bf16* to) {
  for_vectors(count, [&](int64_t i, auto lanes) {
    const v16h part = narrow(load_part<v16f>(from + i, lanes * sizeof(float)));
    std::memcpy(to + i, &part, lanes * sizeof(bf16));
  });
}

// sum += weight * x.
void add_scaled(const float* x, float weight, int64_t count, float* sum) {
  for_vectors(count, [&](int64_t i, auto lanes) {
    const size_t bytes = lanes * sizeof(float);
    const v16f total = load_part<v16f>(sum + i, bytes) + load_part<v16f>(x + i, bytes) * weight;
    std::memcpy(sum + i, &total, bytes);
  });
}

// The largest value and its first place; not a number where any value is none.
Best best(const float* x, int64_t count) {
  v16f most = splat(-INFINITY);
  int32_t first[LANES];
  for (int l = 0; l < LANES; ++l) first[l] = l;
  v16i place{}, wrong{}, here = load<v16i>(first);
  const int64_t whole = count / LANES * LANES;
  for (int64_t i = 0; i < whole; i += LANES, here += LANES) {
    const v16f value = load<v16f>(x + i);
    wrong |= value != value;
    place = select(value > most, here, place);
    most = select(value > most, value, most);
  }
  Best found{0, -INFINITY};
  bool number = true;
  for (int l = 0; l < LANES; ++l) {
    if (most[l] > found.value || (most[l] == found.value && place[l] < found.place)) found = {place[l], most[l]};
    number &= !wrong[l];
  }
  for (int64_t i = whole; i < count; ++i) {
    if (x[i] > found.value) found = {i, x[i]};
    number &= x[i] == x[i];
  }
  return number ? found : Best{found.place, NAN};
}

float log_sum_exp(const float* x, int64_t count) {
  const float most = best(x, count).value;
  v16f sums{};
  const int64_t whole = count / LANES * LANES;
  for (int64_t i = 0; i < whole; i += LANES) sums += exponential(load<v16f>(x + i) - most);
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += sums[l];
  for (int64_t i = whole; i < count; ++i) sum += std::exp(x[i] - most);
  return std::log(sum) + most;
}

void to_float(const bf16* from, int64_t count, float* to) {
  for_vectors(count, [&](int64_t i, auto lanes) {
    const v16f part = widen(load_part<v16h>(from + i, lanes * sizeof(bf16)));
    std::memcpy(to + i, &part, lanes * sizeof(float));
  });
}

}  // namespace

#define K25_TEXT(name) #name
#define K25_NAME(name) K25_TEXT(name)
const Kernels K25_VARIANT = {K25_NAME(K25_VARIANT), DOTS, product, exact_product, swiglu, attend, normalise,
                             to_bf16, to_float, add_scaled, best, log_sum_exp};

}  // namespace k25
