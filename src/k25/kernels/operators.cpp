// The operators torch sees: products, mixtures and attention as work items over torch's own threads.
#include "operators.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>

namespace k25 {

const Kernels* chosen = &portable;

double wake_time() {
  static const double measured = [] {
    using Clock = std::chrono::steady_clock;
    const auto since = [](Clock::time_point start) {
      return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    };
    std::array<double, 15> times;
    for (double& time : times) {
      for (const auto idle = Clock::now(); since(idle) < 20;) continue;  // as long as the work between two operators
      const auto start = Clock::now();
      at::parallel_for(0, at::get_num_threads(), 1, [](int64_t, int64_t) {});
      time = since(start);
    }
    std::nth_element(times.begin(), times.begin() + 5, times.end());
    return times[5];
  }();
  return measured;
}

namespace {

#if defined(__x86_64__)
const std::vector<const Kernels*> VARIANTS = {&avx512_bf16, &avx512, &avx2, &portable};
bool runs_here(const Kernels* variant) {
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (variant == &avx512_bf16) return wide && __builtin_cpu_supports("avx512bf16");
  return variant == &avx512 ? wide : variant == &avx2 ? fma : true;
}
#else
const std::vector<const Kernels*> VARIANTS = {&portable};
bool runs_here(const Kernels*) { return true; }
#endif

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const Kernels* variant : VARIANTS)
    if (runs_here(variant)) names.push_back(variant->name);
  return names;
}

void choose(const std::string& name) {
  for (const Kernels* variant : VARIANTS)
    if (name == variant->name && runs_here(variant)) {
      chosen = variant;
      return;
    }
  TORCH_CHECK(false, "no variant ", name, " runs here");
}

// Uninitialised bytes (uint8) on huge pages where the system grants them: with small ones, decode waits for page tables.
Tensor huge_empty(int64_t bytes) {
  constexpr int64_t PAGE = 2 << 20;
  const int64_t mapped = (bytes + 2 * PAGE - 1) / PAGE * PAGE;
  void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(start != MAP_FAILED, "out of memory: cannot map ", mapped, " bytes");
  void* aligned = (void*)(((uintptr_t)start + PAGE - 1) / PAGE * PAGE);
#if defined(MADV_HUGEPAGE)
  madvise(aligned, mapped - PAGE, MADV_HUGEPAGE);
#endif
  return at::from_blob(aligned, {bytes}, [start, mapped](void*) { munmap(start, mapped); },
                       at::TensorOptions().dtype(at::kByte));
}

// x (T, S, I), its last axis dense -> (T, S, outputs): matrix s of the stack applied to x[:, s].
// Each result has room for `spare` more columns, which are left unwritten.
Tensor stacked_linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& scale, int64_t outputs,
                      int64_t spare) {
  const Stack stack(packed, scale);
  check_values(x, "x");
  const int64_t tokens = x.size(0), inputs = x.size(2);
  TORCH_CHECK(x.dim() == 3 && x.size(1) == stack.matrices && (inputs <= 1 || x.stride(2) == 1), "x does not fit the stack");
  TORCH_CHECK(inputs <= stack.inputs && inputs + 32 > stack.inputs && outputs <= stack.blocks * LANES &&
              outputs > (stack.blocks - 1) * LANES, "x or outputs do not fit the packed weight");
  const int64_t columns = outputs + spare;
  Tensor out = at::empty({tokens, stack.matrices, columns}, x.options());
  std::vector<Activations> sources;
  for (int64_t s = 0; s < stack.matrices; ++s)
    sources.emplace_back((const char*)x.data_ptr() + s * x.stride(1) * x.element_size(), is_bf16(x), tokens, inputs,
                         x.stride(0), stack.inputs);
  const int64_t items = ceil_div(stack.blocks, CHUNK);
  const int64_t all_blocks = stack.matrices * stack.blocks;
  for_items(stack.matrices * items,
            duration(all_blocks * stack.bytes_per_block(), all_blocks * LANES * tokens * stack.inputs),
            [&](int64_t item) {
    const int64_t s = item / items, block = item % items * CHUNK;
    const int blocks = int(std::min<int64_t>(CHUNK, stack.blocks - block));
    const int64_t width = std::min<int64_t>(ITEM, outputs - block * LANES);
    alignas(64) float tile[ROW_TILE * ITEM];
    for (int64_t t = 0; t < tokens; t += ROW_TILE) {
      const int count = int(std::min<int64_t>(ROW_TILE, tokens - t));
      int32_t index[ROW_TILE];
      for (int m = 0; m < count; ++m) index[m] = int32_t(t + m);
      chosen->product(stack.matrix(s), block, blocks, sources[s].rows, index, count, tile);
      for (int m = 0; m < count; ++m)
        write_row(tile + m * ITEM, out.data_ptr(), is_bf16(x), ((t + m) * stack.matrices + s) * columns + block * LANES, width);
    }
  });
  return out;
}

Tensor linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& scale, int64_t outputs) {
  TORCH_CHECK(x.dim() == 2, "x must be (T, I)");
  return stacked_linear(x.unsqueeze(1), packed, scale, outputs, 0).squeeze(1);
}

// One SwiGLU network and the tokens that visit it.
struct Visit {
  const Stack* up;    // matrices 2 * network (gate) and 2 * network + 1 (up)
  const Stack* down;
  int64_t network;
  std::vector<int32_t> tokens;
  std::vector<float> weights;
  int64_t first = 0;  // its first row of the hidden activations
};

// networks: [up, down] or [up, down, up scales, down scales]; none where the list is empty.
struct Networks {
  std::optional<Stack> up, down;
  explicit Networks(const std::vector<Tensor>& parts) {
    if (parts.empty()) return;
    TORCH_CHECK(parts.size() == 2 || parts.size() == 4, "a network stack has two tensors, or four");
    const bool int4 = parts.size() == 4;
    up.emplace(parts[0], int4 ? std::make_optional(parts[2]) : std::nullopt);
    down.emplace(parts[1], int4 ? std::make_optional(parts[3]) : std::nullopt);
    TORCH_CHECK(up->matrices == 2 * down->matrices && up->blocks * LANES >= down->inputs, "network stacks do not fit");
  }
};

std::vector<Visit> visits(const Networks& routed, const Networks& shared, const Tensor& weights, const Tensor& experts,
                          int64_t tokens) {
  std::vector<Visit> all;
  if (routed.up) {
    TORCH_CHECK(weights.scalar_type() == at::kFloat && experts.scalar_type() == at::kLong && weights.dim() == 2 &&
                weights.sizes() == experts.sizes() && weights.size(0) == tokens, "weights float32 and experts int64 are (T, K)");
    const Tensor dense_weights = weights.contiguous(), dense_experts = experts.contiguous();
    const float* weight = dense_weights.data_ptr<float>();
    const int64_t* expert = dense_experts.data_ptr<int64_t>();
    std::vector<Visit> by_expert(routed.down->matrices);
    for (int64_t i = 0; i < weights.numel(); ++i) {
      TORCH_CHECK(expert[i] >= 0 && expert[i] < routed.down->matrices, "expert number out of range");
      by_expert[expert[i]].tokens.push_back(int32_t(i / weights.size(1)));
      by_expert[expert[i]].weights.push_back(weight[i]);
    }
    for (int64_t e = 0; e < routed.down->matrices; ++e)
      if (!by_expert[e].tokens.empty()) {
        by_expert[e].up = &*routed.up, by_expert[e].down = &*routed.down, by_expert[e].network = e;
        all.push_back(std::move(by_expert[e]));
      }
  }
  if (shared.up)
    for (int64_t e = 0; e < shared.down->matrices; ++e) {
      Visit visit{&*shared.up, &*shared.down, e, std::vector<int32_t>(tokens), std::vector<float>(tokens, 1.0f)};
      for (int64_t t = 0; t < tokens; ++t) visit.tokens[t] = int32_t(t);
      all.push_back(std::move(visit));
    }
  return all;
}

// sum over the chosen experts of weight * SwiGLU(x), plus every shared network's SwiGLU(x): x (T, D) -> (T, D).
Tensor mixture(const Tensor& x, const Tensor& weights, const Tensor& experts, const std::vector<Tensor>& routed_parts,
               const std::vector<Tensor>& shared_parts) {
  const Networks routed(routed_parts), shared(shared_parts);
  check_values(x, "x");
  TORCH_CHECK(x.dim() == 2 && x.stride(1) == 1, "x must be (T, D), its last axis dense");
  const int64_t tokens = x.size(0), width = x.size(1);
  std::vector<Visit> work = visits(routed, shared, weights, experts, tokens);
  Tensor out = at::empty({tokens, width}, x.options());

  struct Item { int64_t visit, block; };
  std::vector<Item> items;
  int64_t rows = 0, hidden_width = 0, bytes = 0, products = 0, widest_input = width;
  for (size_t v = 0; v < work.size(); ++v) {
    const Stack &up = *work[v].up, &down = *work[v].down;
    TORCH_CHECK(up.inputs >= width && up.inputs < width + 32 && down.blocks == ceil_div(width, LANES), "x does not fit");
    work[v].first = rows;
    rows += int64_t(work[v].tokens.size());
    hidden_width = std::max(hidden_width, up.blocks * LANES);
    widest_input = std::max(widest_input, up.inputs);
    for (int64_t block = 0; block < up.blocks; block += CHUNK) items.push_back({int64_t(v), block});
    bytes += up.blocks * 2 * up.bytes_per_block();
    products += up.blocks * 2 * LANES * up.inputs * int64_t(work[v].tokens.size());
  }
  const Activations source(x.data_ptr(), is_bf16(x), tokens, width, x.stride(0), widest_input);
  const bool half = chosen->dots_bf16;
  const auto hidden_values = std::make_unique_for_overwrite<char[]>(rows * hidden_width * (half ? sizeof(bf16) : sizeof(float)));
  const Rows hidden{hidden_values.get(), hidden_width};

  for_items(int64_t(items.size()), duration(bytes, products), [&](int64_t item) {
    const Visit& visit = work[items[item].visit];
    const int64_t block = items[item].block, count = int64_t(visit.tokens.size());
    const int blocks = int(std::min<int64_t>(CHUNK, visit.up->blocks - block));
    alignas(64) float gate[ROW_TILE * ITEM], up[ROW_TILE * ITEM];
    for (int64_t r = 0; r < count; r += ROW_TILE) {
      const int here = int(std::min<int64_t>(ROW_TILE, count - r));
      chosen->product(visit.up->matrix(2 * visit.network), block, blocks, source.rows, &visit.tokens[r], here, gate);
      chosen->product(visit.up->matrix(2 * visit.network + 1), block, blocks, source.rows, &visit.tokens[r], here, up);
      for (int m = 0; m < here; ++m) {
        chosen->swiglu(gate + m * ITEM, up + m * ITEM, blocks * LANES, gate + m * ITEM);
        write_row(gate + m * ITEM, hidden_values.get(), half, (visit.first + r + m) * hidden_width + block * LANES, blocks * LANES);
      }
    }
  });

  // Each item owns some columns of every token and adds the experts in ascending order: no two threads meet. The columns
  // are many, since what is fetched ahead is the same expert's next block.
  const int64_t all_blocks = ceil_div(width, LANES);
  const int64_t span = std::max<int64_t>(all_blocks / (2 * at::get_num_threads()) / CHUNK, 1) * CHUNK;
  for_items(ceil_div(all_blocks, span), duration(bytes, products) / 2, [&](int64_t item) {
    const int64_t first = item * span, last = std::min(first + span, all_blocks), columns = (last - first) * LANES;
    std::vector<float> sum(tokens * columns);
    alignas(64) float tile[ROW_TILE * ITEM];
    for (const Visit& visit : work)
      for (int64_t block = first; block < last; block += CHUNK) {
        const int blocks = int(std::min<int64_t>(CHUNK, last - block));
        for (int64_t r = 0; r < int64_t(visit.tokens.size()); r += ROW_TILE) {
          const int here = int(std::min<int64_t>(ROW_TILE, int64_t(visit.tokens.size()) - r));
          int32_t index[ROW_TILE];
          for (int m = 0; m < here; ++m) index[m] = int32_t(visit.first + r + m);
          chosen->product(visit.down->matrix(visit.network), block, blocks, hidden, index, here, tile);
          for (int m = 0; m < here; ++m)
            chosen->add_scaled(tile + m * ITEM, visit.weights[r + m], blocks * LANES,
                               &sum[visit.tokens[r + m] * columns + (block - first) * LANES]);
        }
      }
    for (int64_t t = 0; t < tokens; ++t)
      write_row(&sum[t * columns], out.data_ptr(), is_bf16(x), t * width + first * LANES, std::min(columns, width - first * LANES));
  });
  return out;
}

// query (T, H, B), cache (pages, page_size, B), tables (T, P) int32, lengths (T,) int32 -> (T, H, values).
Tensor latent_attention(const Tensor& query, const Tensor& cache, const Tensor& tables, const Tensor& lengths,
                        int64_t values, double scale) {
  check_values(query, "query");
  check_values(cache, "cache");
  TORCH_CHECK(query.dim() == 3 && cache.dim() == 3 && cache.size(2) == query.size(2) && cache.is_contiguous() &&
              values > 0 && values <= query.size(2), "query (T, H, B) and cache (pages, page_size, B) do not fit");
  TORCH_CHECK(tables.dim() == 2 && tables.scalar_type() == at::kInt && lengths.scalar_type() == at::kInt &&
              lengths.dim() == 1 && tables.size(0) == query.size(0) && lengths.size(0) == query.size(0),
              "tables (T, P) and lengths (T,) must be int32");
  const int64_t tokens = query.size(0), heads = query.size(1), width = query.size(2), page_size = cache.size(1);
  const Tensor asked = query.contiguous(), table = tables.contiguous(), length = lengths.contiguous();
  const int32_t* context = length.data_ptr<int32_t>();
  int64_t rows = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* pages = table.data_ptr<int32_t>() + t * table.size(1);
    TORCH_CHECK(context[t] >= 0 && ceil_div(context[t], page_size) <= table.size(1), "a table is shorter than its length");
    for (int64_t p = 0; p < ceil_div(context[t], page_size); ++p)
      TORCH_CHECK(pages[p] >= 0 && pages[p] < cache.size(0), "a table names a page outside the cache");
    rows += context[t];
  }
  Tensor out = at::empty({tokens, heads, values}, query.options());
  const bool dots = chosen->dots_bf16 && is_bf16(cache);
  std::vector<float> recast;
  const char* from = (const char*)asked.data_ptr();
  if (is_bf16(query) != dots) {
    recast.resize(asked.numel());
    if (dots) chosen->to_bf16((const float*)from, asked.numel(), (bf16*)recast.data());
    else chosen->to_float((const bf16*)from, asked.numel(), recast.data());
    from = (const char*)recast.data();
  }
  int64_t group = HEAD_GROUP;
  while (group > 4 && tokens * ceil_div(heads, group) < 2 * at::get_num_threads()) group /= 2;
  const int64_t groups = ceil_div(heads, group), stride = ceil_div(values, 32) * 32;
  for_items(tokens * groups, duration(rows * width * 2, rows * heads * 2 * width), [&](int64_t item) {
    const int64_t t = item / groups, head = item % groups * group;
    const int here = int(std::min(group, heads - head));
    const auto mix = std::make_unique_for_overwrite<float[]>(HEAD_GROUP * stride);
    const auto result = std::make_unique_for_overwrite<float[]>(here * values);
    chosen->attend({.query = from + (t * heads + head) * width * (dots ? 2 : 4), .query_stride = width,
                    .cache = cache.data_ptr(), .table = table.data_ptr<int32_t>() + t * table.size(1),
                    .page_size = page_size, .context = context[t], .width = width, .values = values, .heads = here,
                    .wide_cache = !is_bf16(cache), .scale = float(scale), .mix = mix.get(),
                    .mix_stride = stride, .out = result.get()});
    write_row(result.get(), out.data_ptr(), is_bf16(query), (t * heads + head) * values, here * values);
  });
  return out;
}

}  // namespace
}  // namespace k25

TORCH_LIBRARY(k25_kernels, m) {
  m.def("variants() -> str[]", k25::variants);
  m.def("choose(str name) -> ()", k25::choose);
  m.def("huge_empty(int bytes) -> Tensor", k25::huge_empty);
  m.def("linear(Tensor x, Tensor packed, Tensor? scale, int outputs) -> Tensor");
  m.def("stacked_linear(Tensor x, Tensor packed, Tensor? scale, int outputs, int spare) -> Tensor");
  m.def("mixture(Tensor x, Tensor weights, Tensor experts, Tensor[] routed, Tensor[] shared) -> Tensor");
  m.def("latent_attention(Tensor query, Tensor cache, Tensor tables, Tensor lengths, int values, float scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(k25_kernels, CPU, m) {
  m.impl("linear", k25::linear);
  m.impl("stacked_linear", k25::stacked_linear);
  m.impl("mixture", k25::mixture);
  m.impl("latent_attention", k25::latent_attention);
}
