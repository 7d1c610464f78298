// The small steps between products, each one operator instead of several: norms, routing, rotation and cache writes, and
// what sampling asks of the scores. Activations are float here; a decode step has few rows, so one thread does most.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "work.h"

namespace k25 {
namespace {

// x (T, D), rows at any stride -> gain * x / sqrt(mean(x^2) + eps). `delta` (T, D), if given, is added to x in place first.
Tensor rms_norm(const Tensor& x, const std::optional<Tensor>& delta, const Tensor& gain, double eps) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.dim() == 2 && (x.size(1) <= 1 || x.stride(1) == 1), "x must be float32 (T, D)");
  const int64_t tokens = x.size(0), width = x.size(1);
  Tensor out = at::empty({tokens, width}, x.options());
  const float *scale = floats(gain, width, "gain"), *add = delta ? floats(*delta, x.numel(), "delta") : nullptr;
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = x.data_ptr<float>() + t * x.stride(0);
    if (add) chosen->add_scaled(add + t * width, 1.0f, width, row);
    chosen->normalise(row, scale, width, float(eps), out.data_ptr<float>() + t * width);
  }
  return out;
}

// logits (T, E) and selection bias (E,) -> weights (T, K) that sum to `scaling`, and experts (T, K).
std::tuple<Tensor, Tensor> route(const Tensor& logits, const Tensor& bias, int64_t k, double scaling) {
  TORCH_CHECK(logits.dim() == 2 && k > 0 && k <= logits.size(1), "logits must be (T, E) with E >= K > 0");
  const int64_t tokens = logits.size(0), experts = logits.size(1);
  const float *logit = floats(logits, -1, "logits"), *favour = floats(bias, experts, "bias");
  Tensor weights = at::empty({tokens, k}, logits.options()), chosen_experts = at::empty({tokens, k}, logits.options().dtype(at::kLong));
  for (int64_t t = 0; t < tokens; ++t)
    route_token(logit + t * experts, favour, experts, k, float(scaling), weights.data_ptr<float>() + t * k,
                chosen_experts.data_ptr<int64_t>() + t * k);
  return {weights, chosen_experts};
}

// scores (T, V) -> the place of every row's largest score, and that score.
std::tuple<Tensor, Tensor> best(const Tensor& scores) {
  TORCH_CHECK(scores.dim() == 2 && scores.size(1) > 0, "scores must be (T, V)");
  const float* from = floats(scores, -1, "scores");
  const int64_t width = scores.size(1);
  Tensor places = at::empty({scores.size(0)}, scores.options().dtype(at::kLong)), values = at::empty({scores.size(0)}, scores.options());
  for_items(scores.size(0), duration(scores.nbytes(), 0), [&](int64_t t) {
    const Best found = chosen->best(from + t * width, width);
    places.data_ptr<int64_t>()[t] = found.place, values.data_ptr<float>()[t] = found.value;
  });
  return {places, values};
}

// scores (T, V) -> log(sum(exp(row))) of every row.
Tensor log_sum_exp(const Tensor& scores) {
  TORCH_CHECK(scores.dim() == 2, "scores must be (T, V)");
  const float* from = floats(scores, -1, "scores");
  const int64_t width = scores.size(1);
  Tensor sums = at::empty({scores.size(0)}, scores.options());
  for_items(scores.size(0), duration(2 * scores.nbytes(), 0),
            [&](int64_t t) { sums.data_ptr<float>()[t] = chosen->log_sum_exp(from + t * width, width); });
  return sums;
}

// Writes the last R columns of `absorbed` (T, H, C + R) with the rotated last R of `query` (T, H, N + R), and row
// slots[t] of `cache` (slots, C + R) with the normed latent and the rotated key of `latent` (T, C + R). `turn` (T, R / 2)
// holds a complex number of size 1 per pair.
void rotate_and_store(const Tensor& absorbed, const Tensor& query, const Tensor& latent, const Tensor& gain, double eps,
                      const Tensor& turn, const Tensor& cache, const Tensor& slots) {
  const int64_t tokens = query.size(0), heads = query.size(1), rank = gain.numel(), width = cache.size(1), turned = width - rank;
  TORCH_CHECK(absorbed.dim() == 3 && query.dim() == 3 && latent.dim() == 2 && cache.dim() == 2 && turned >= 0 && turned % 2 == 0 &&
              absorbed.is_contiguous() && absorbed.scalar_type() == at::kFloat && absorbed.numel() == tokens * heads * width &&
              query.scalar_type() == at::kFloat && query.stride(2) == 1 && query.size(2) >= turned &&
              latent.scalar_type() == at::kFloat && latent.stride(1) == 1 && latent.size(0) == tokens && latent.size(1) == width &&
              turn.scalar_type() == at::kComplexFloat && turn.is_contiguous() && turn.numel() * 2 == tokens * turned &&
              cache.is_contiguous() && slots.scalar_type() == at::kLong && slots.is_contiguous() && slots.numel() == tokens,
              "the query, latent, cache and slots do not fit each other");
  check_values(cache, "cache");
  const float *scale = floats(gain, rank, "gain"), *angles = (const float*)turn.data_ptr();
  std::vector<float> row(width);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* angle = angles + t * turned;
    for (int64_t h = 0; h < heads; ++h)
      rotate(query.data_ptr<float>() + t * query.stride(0) + h * query.stride(1) + query.size(2) - turned, angle, turned,
             absorbed.data_ptr<float>() + (t * heads + h) * width + rank);
    const float* from = latent.data_ptr<float>() + t * latent.stride(0);
    chosen->normalise(from, scale, rank, float(eps), row.data());
    rotate(from + rank, angle, turned, row.data() + rank);
    const int64_t slot = slots.data_ptr<int64_t>()[t];
    TORCH_CHECK(slot >= 0 && slot < cache.size(0), "a slot lies outside the cache");
    write_row(row.data(), cache.data_ptr(), is_bf16(cache), slot * width, width);
  }
}

}  // namespace
}  // namespace k25

using at::Tensor;

TORCH_LIBRARY_FRAGMENT(k25_kernels, m) {
  m.def("rms_norm(Tensor x, Tensor gain, float eps) -> Tensor");
  m.def("add_rms_norm(Tensor(a!) x, Tensor delta, Tensor gain, float eps) -> Tensor");
  m.def("route(Tensor logits, Tensor bias, int k, float scaling) -> (Tensor, Tensor)");
  m.def("best(Tensor scores) -> (Tensor, Tensor)");
  m.def("log_sum_exp(Tensor scores) -> Tensor");
  m.def("rotate_and_store(Tensor(a!) absorbed, Tensor query, Tensor latent, Tensor gain, float eps, Tensor turn, "
        "Tensor(b!) cache, Tensor slots) -> ()");
}

TORCH_LIBRARY_IMPL(k25_kernels, CPU, m) {
  m.impl("rms_norm", [](const Tensor& x, const Tensor& gain, double eps) { return k25::rms_norm(x, std::nullopt, gain, eps); });
  m.impl("add_rms_norm", [](const Tensor& x, const Tensor& delta, const Tensor& gain, double eps) {
    return k25::rms_norm(x, delta, gain, eps);
  });
  m.impl("route", k25::route);
  m.impl("best", k25::best);
  m.impl("log_sum_exp", k25::log_sum_exp);
  m.impl("rotate_and_store", k25::rotate_and_store);
}
