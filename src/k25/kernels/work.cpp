// The loops of a decode step. Activations are only moved here: this file is compiled for any CPU.
#include "work.h"

#include <cmath>
#include <numeric>

namespace k25 {

void multiply(Crew& crew, const Stack& stack, int64_t outputs, const Rows* sources, int64_t tokens, const Place& out,
              bool exact) {
  const auto product = exact ? chosen->exact_product : chosen->product;
  const int64_t items = ceil_div(stack.blocks, CHUNK);
  crew.in_order(stack.matrices * items, [&](int64_t item, int64_t next) {
    const int64_t s = item / items, block = item % items * CHUNK;
    Part part = stack.part(s, block, next < 0 ? nullptr : stack.place(next / items, next % items * CHUNK));
    const int64_t width = std::min<int64_t>(ITEM, outputs - block * LANES);
    alignas(64) float tile[ROW_TILE * ITEM];
    for (int64_t t = 0; t < tokens; t += ROW_TILE) {
      const int count = int(std::min<int64_t>(ROW_TILE, tokens - t));
      product(part, sources[s].from(t), count, tile);
      part.next = nullptr;
      for (int m = 0; m < count; ++m) out.put(t + m, s, block * LANES, tile + m * ITEM, width);
    }
  });
}

Visits::Visits(const Networks& routed, const Networks& shared, const int64_t* experts, const float* weight, int64_t k,
               int64_t count) {
  const int64_t networks = routed.down ? routed.down->matrices : 0;
  choices = routed.down ? count * k : 0;
  const int64_t rows = choices + (shared.down ? shared.down->matrices * count : 0);
  tokens.resize(rows);
  weights.resize(rows, 1.0f);
  std::vector<int64_t> next(networks + 1);
  for (int64_t i = 0; i < choices; ++i) ++next[experts[i] + 1];
  for (int64_t e = 0; e < networks; ++e) {
    if (next[e + 1]) all.push_back({&*routed.up, &*routed.down, e, next[e], next[e + 1]});
    next[e + 1] += next[e];
  }
  for (int64_t i = 0; i < choices; ++i) {
    const int64_t row = next[experts[i]]++;
    tokens[row] = int32_t(i / k), weights[row] = weight[i];
  }
  if (shared.down)
    for (int64_t e = 0; e < shared.down->matrices; ++e) {
      const int64_t first = choices + e * count;
      all.push_back({&*shared.up, &*shared.down, e, first, count});
      std::iota(tokens.begin() + first, tokens.begin() + first + count, 0);
    }
}

double Visits::duration() const {
  int64_t bytes = 0, products = 0;
  for (const Visit& visit : all) {
    bytes += visit.up->blocks * 2 * visit.up->bytes_per_block();
    products += visit.up->blocks * 2 * LANES * visit.up->inputs * visit.count;
  }
  return 1.5 * k25::duration(bytes, products);
}

namespace {

// Rows of a width and their memory, not set.
struct RowBuffer {
  const std::unique_ptr<char[]> memory;
  const Rows rows;
  const Place place;

  RowBuffer(int64_t count, int64_t width, bool half)
      : memory(std::make_unique_for_overwrite<char[]>(count * Rows{nullptr, width, half}.stride_bytes())),
        rows{memory.get(), width, half}, place{memory.get(), half, width, 0} {}
};

// The rows that experts read, side by side.
void gather(Crew& crew, const Visits& visits, const Rows& x, const RowBuffer& to) {
  crew.each(ceil_div(visits.choices, ROW_TILE), [&](int64_t item) {
    const int64_t last = std::min<int64_t>((item + 1) * ROW_TILE, visits.choices);
    for (int64_t r = item * ROW_TILE; r < last; ++r)
      std::memcpy((char*)to.place.data + r * to.rows.stride_bytes(), x.from(visits.tokens[r]).data, to.rows.stride_bytes());
  });
}

// hidden = silu(gate) * up of each visit's rows: those of shared networks are x itself.
void up(Crew& crew, const Visits& visits, const Rows& x, const Rows& gathered, const Place& hidden) {
  struct Item {
    const Visit* visit;
    int64_t block;
    const uint32_t* place(int i) const { return visit->up->place(2 * visit->network + i, block); }
  };
  std::vector<Item> items;
  for (const Visit& visit : visits.all)
    for (int64_t block = 0; block < visit.up->blocks; block += CHUNK) items.push_back({&visit, block});

  crew.in_order(int64_t(items.size()), [&](int64_t item, int64_t next) {
    const Visit& visit = *items[item].visit;
    const int64_t block = items[item].block;
    Part parts[2];  // gate and up
    for (int i = 0; i < 2; ++i) parts[i] = visit.up->part(2 * visit.network + i, block, next < 0 ? nullptr : items[next].place(i));
    const int64_t width = parts[0].blocks * LANES;
    alignas(64) float gate[ROW_TILE * ITEM], up[ROW_TILE * ITEM];
    for (int64_t r = visit.first; r < visit.first + visit.count; r += ROW_TILE) {
      const int here = int(std::min<int64_t>(ROW_TILE, visit.first + visit.count - r));
      const Rows rows = r < visits.choices ? gathered.from(r) : x.from(r - visit.first);
      chosen->product(parts[0], rows, here, gate);
      chosen->product(parts[1], rows, here, up);
      for (Part& part : parts) part.next = nullptr;
      for (int m = 0; m < here; ++m) {
        chosen->swiglu(gate + m * ITEM, up + m * ITEM, width, gate + m * ITEM);
        hidden.put(r + m, 0, block * LANES, gate + m * ITEM, width);
      }
    }
  });
}

// Each item owns some columns of every token and adds the experts in ascending order: no two threads meet.
void down(Crew& crew, const Visits& visits, const Rows& hidden, int64_t tokens, int64_t width, const Place& out) {
  const int64_t all_blocks = ceil_div(width, LANES);
  const int64_t span = std::max<int64_t>(all_blocks / (8 * at::get_num_threads()) / CHUNK, 1) * CHUNK;
  crew.in_order(ceil_div(all_blocks, span), [&](int64_t item, int64_t next) {
    const int64_t begin = item * span, last = std::min(begin + span, all_blocks), columns = (last - begin) * LANES;
    const auto next_place = [&](size_t v, int64_t block) -> const uint32_t* {
      if (block + CHUNK < last) return visits.all[v].down->place(visits.all[v].network, block + CHUNK);
      if (v + 1 < visits.all.size()) return visits.all[v + 1].down->place(visits.all[v + 1].network, begin);
      return next < 0 ? nullptr : visits.all[0].down->place(visits.all[0].network, next * span);
    };
    std::vector<float> sum(tokens * columns);
    alignas(64) float tile[ROW_TILE * ITEM];
    for (size_t v = 0; v < visits.all.size(); ++v) {
      const Visit& visit = visits.all[v];
      for (int64_t block = begin; block < last; block += CHUNK) {
        Part part = visit.down->part(visit.network, block, next_place(v, block));
        for (int64_t r = visit.first; r < visit.first + visit.count; r += ROW_TILE) {
          const int here = int(std::min<int64_t>(ROW_TILE, visit.first + visit.count - r));
          chosen->product(part, hidden.from(r), here, tile);
          part.next = nullptr;
          for (int m = 0; m < here; ++m)
            chosen->add_scaled(tile + m * ITEM, visits.weights[r + m], part.blocks * LANES,
                               &sum[visits.tokens[r + m] * columns + (block - begin) * LANES]);
        }
      }
    }
    for (int64_t t = 0; t < tokens; ++t)
      out.put(t, 0, begin * LANES, &sum[t * columns], std::min(columns, width - begin * LANES));
  });
}

}  // namespace

void visit_networks(Crew& crew, const Visits& visits, const Rows& x, int64_t tokens, int64_t width, const Place& out) {
  int64_t inputs = 0, hidden_width = 0;
  for (const Visit& visit : visits.all) {
    inputs = std::max(inputs, visit.up->inputs);
    hidden_width = std::max(hidden_width, visit.up->blocks * LANES);
  }
  const RowBuffer gathered(visits.choices, inputs, x.half), hidden(int64_t(visits.tokens.size()), hidden_width, x.half);
  gather(crew, visits, x, gathered);
  up(crew, visits, x, gathered.rows, hidden.place);
  down(crew, visits, hidden.rows, tokens, width, out);
}

void check_pages(const Pages& pages, int64_t tokens, int64_t count) {
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t used = ceil_div(pages.lengths[t], pages.page_size);
    TORCH_CHECK(pages.lengths[t] >= 0 && used <= pages.table_stride, "a table is shorter than its length");
    const int32_t* table = pages.tables + t * pages.table_stride;
    for (int64_t p = 0; p < used; ++p)
      TORCH_CHECK(table[p] >= 0 && table[p] < count, "a table names a page outside the cache");
  }
}

double attention_duration(const Pages& pages, int64_t tokens, int64_t heads) {
  const int64_t rows = std::accumulate(pages.lengths, pages.lengths + tokens, int64_t(0));
  return duration(rows * pages.width * 2, rows * heads * 2 * pages.width);
}

void attend(Crew& crew, const Pages& pages, const void* query, int64_t tokens, int64_t heads, int64_t values, float scale,
            const Place& out) {
  int64_t group = HEAD_GROUP;
  while (group > 4 && tokens * ceil_div(heads, group) < 2 * at::get_num_threads()) group /= 2;
  const int64_t groups = ceil_div(heads, group), stride = ceil_div(values, 32) * 32;
  const int64_t size = pages.multiplies_bf16() ? sizeof(bf16) : sizeof(float);
  crew.each(tokens * groups, [&](int64_t item) {
    const int64_t t = item / groups, head = item % groups * group;
    const int here = int(std::min(group, heads - head));
    const auto mix = std::make_unique_for_overwrite<float[]>(HEAD_GROUP * stride);
    const auto result = std::make_unique_for_overwrite<float[]>(here * values);
    chosen->attend({.query = (const char*)query + (t * heads + head) * pages.width * size, .query_stride = pages.width,
                    .cache = pages.rows, .table = pages.tables + t * pages.table_stride, .page_size = pages.page_size,
                    .context = pages.lengths[t], .width = pages.width, .values = values, .heads = here,
                    .wide_cache = pages.wide, .scale = scale, .mix = mix.get(), .mix_stride = stride,
                    .out = result.get()});
    for (int h = 0; h < here; ++h) out.put(t, head + h, 0, &result[h * values], values);
  });
}

void rotate(const float* x, const float* turn, int64_t width, float* out) {
  for (int64_t i = 0; i < width; i += 2) {
    const float even = x[i], odd = x[i + 1];
    out[i] = even * turn[i] - odd * turn[i + 1];
    out[i + 1] = odd * turn[i] + even * turn[i + 1];
  }
}

void route_token(const float* logits, const float* bias, int64_t experts, int64_t k, float scaling, float* weights,
                 int64_t* choice) {
  std::vector<float> score(experts);
  std::vector<int64_t> order(experts);
  for (int64_t e = 0; e < experts; ++e) score[e] = 1 / (1 + std::exp(-logits[e]));
  std::iota(order.begin(), order.end(), 0);
  // A score that is not a number ranks last, so that the order stays one.
  const auto rank = [&](int64_t e) { const float value = score[e] + bias[e]; return value == value ? value : -INFINITY; };
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [&](int64_t a, int64_t b) { return rank(a) != rank(b) ? rank(a) > rank(b) : a < b; });
  float sum = 1e-20f;
  for (int64_t i = 0; i < k; ++i) sum += score[order[i]];
  for (int64_t i = 0; i < k; ++i) weights[i] = score[order[i]] * scaling / sum, choice[i] = order[i];
}

}  // namespace k25
