// The operators torch sees: products, mixtures and attention over torch's own threads. Also which instruction set runs.
#include "work.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>
#include <torch/library.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
// Whether the CPU multiplies tiles of bf16, and Linux lets this process use them: their state is saved on request only.
bool may_use_tiles() {
  constexpr unsigned BF16_TILES = 1u << 22, TILES = 1u << 24;
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (BF16_TILES | TILES)) != (BF16_TILES | TILES)) return false;
#if defined(SYS_arch_prctl)
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
  return false;
#endif
}

const std::vector<const Kernels*> VARIANTS = {&amx_bf16, &avx512_bf16, &avx512, &avx2, &portable};
bool runs_here(const Kernels* variant) {
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool dots = wide && __builtin_cpu_supports("avx512bf16");
  if (variant == &amx_bf16) return dots && may_use_tiles();
  if (variant == &avx512_bf16) return dots;
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
// Each result has room for `spare` more columns, which are left unwritten. `exact`: see PackedLinear.
Tensor stacked_product(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& scale, int64_t outputs,
                       int64_t spare, bool exact) {
  const Stack stack(packed, scale);
  check_values(x, "x");
  TORCH_CHECK(x.dim() == 3 && x.size(1) == stack.matrices && (x.size(2) <= 1 || x.stride(2) == 1), "x does not fit the stack");
  const int64_t tokens = x.size(0), inputs = x.size(2), columns = outputs + spare;
  TORCH_CHECK(stack.maps(inputs, outputs), "x or outputs do not fit the packed weight");
  TORCH_CHECK(!exact || !scale, "exact products are of bf16 weights");
  Tensor out = at::empty({tokens, stack.matrices, columns}, x.options());
  std::vector<Activations> sources;
  std::vector<Rows> rows;
  for (int64_t s = 0; s < stack.matrices; ++s) {
    const char* from = (const char*)x.data_ptr() + s * x.stride(1) * x.element_size();
    sources.emplace_back(from, is_bf16(x), tokens, inputs, x.stride(0), stack.inputs, exact);
    rows.push_back(sources.back().rows);
  }
  const Place place{out.data_ptr(), is_bf16(x), stack.matrices * columns, columns};
  with_crew(stack.duration_of(tokens),
            [&](Crew& crew) { multiply(crew, stack, outputs, rows.data(), tokens, place, exact); });
  return out;
}

Tensor stacked_linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& scale, int64_t outputs,
                      int64_t spare) {
  return stacked_product(x, packed, scale, outputs, spare, false);
}

Tensor linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& scale, int64_t outputs, bool exact) {
  TORCH_CHECK(x.dim() == 2, "x must be (T, I)");
  return stacked_product(x.unsqueeze(1), packed, scale, outputs, 0, exact).squeeze(1);
}

// sum over the chosen experts of weight * SwiGLU(x), plus every shared network's SwiGLU(x): x (T, D) -> (T, D).
Tensor mixture(const Tensor& x, const Tensor& weights, const Tensor& experts, const std::vector<Tensor>& routed_parts,
               const std::vector<Tensor>& shared_parts) {
  const Networks routed(routed_parts), shared(shared_parts);
  check_values(x, "x");
  TORCH_CHECK(x.dim() == 2 && x.stride(1) == 1, "x must be (T, D), its last axis dense");
  const int64_t tokens = x.size(0), width = x.size(1);
  TORCH_CHECK(routed.fit(width) && shared.fit(width), "x does not fit");
  if (routed.up)
    TORCH_CHECK(weights.scalar_type() == at::kFloat && experts.scalar_type() == at::kLong && weights.dim() == 2 &&
                weights.sizes() == experts.sizes() && weights.size(0) == tokens, "weights float32 and experts int64 are (T, K)");
  const Tensor dense_weights = weights.contiguous(), dense_experts = experts.contiguous();
  const int64_t* expert = routed.up ? dense_experts.data_ptr<int64_t>() : nullptr;
  const float* weight = routed.up ? dense_weights.data_ptr<float>() : nullptr;
  if (routed.up)
    for (int64_t i = 0; i < experts.numel(); ++i)
      TORCH_CHECK(expert[i] >= 0 && expert[i] < routed.down->matrices, "expert number out of range");
  const Visits visits(routed, shared, expert, weight, weights.size(1), tokens);
  const int64_t padded = std::max({width, routed.up ? routed.up->inputs : 0, shared.up ? shared.up->inputs : 0});
  const Activations source(x.data_ptr(), is_bf16(x), tokens, width, x.stride(0), padded);
  Tensor out = at::empty({tokens, width}, x.options());
  const Place place{out.data_ptr(), is_bf16(x), width, 0};
  with_crew(visits.duration(), [&](Crew& crew) { visit_networks(crew, visits, source.rows, tokens, width, place); });
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
  const int64_t tokens = query.size(0), heads = query.size(1), width = query.size(2);
  const Tensor asked = query.contiguous(), table = tables.contiguous(), length = lengths.contiguous();
  const Pages pages{.rows = cache.data_ptr(), .wide = !is_bf16(cache), .page_size = cache.size(1), .width = width,
                    .tables = table.data_ptr<int32_t>(), .table_stride = table.size(1),
                    .lengths = length.data_ptr<int32_t>()};
  check_pages(pages, tokens, cache.size(0));
  Tensor out = at::empty({tokens, heads, values}, query.options());
  const bool dots = pages.multiplies_bf16();
  std::vector<float> recast;
  const void* from = asked.data_ptr();
  if (is_bf16(query) != dots) {
    recast.resize(asked.numel());
    if (dots) chosen->to_bf16((const float*)from, asked.numel(), (bf16*)recast.data());
    else chosen->to_float((const bf16*)from, asked.numel(), recast.data());
    from = recast.data();
  }
  const Place place{out.data_ptr(), is_bf16(query), heads * values, values};
  with_crew(attention_duration(pages, tokens, heads),
            [&](Crew& crew) { attend(crew, pages, from, tokens, heads, values, float(scale), place); });
  return out;
}

}  // namespace
}  // namespace k25

TORCH_LIBRARY(k25_kernels, m) {
  m.def("variants() -> str[]", k25::variants);
  m.def("choose(str name) -> ()", k25::choose);
  m.def("huge_empty(int bytes) -> Tensor", k25::huge_empty);
  m.def("linear(Tensor x, Tensor packed, Tensor? scale, int outputs, bool exact) -> Tensor");
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
