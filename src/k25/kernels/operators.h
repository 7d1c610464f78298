// What the operators share: threads, checks, packed stacks and activations as the kernels want them.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "inner.h"

namespace k25 {

extern const Kernels* chosen;

using at::Tensor;
constexpr int64_t ITEM = CHUNK * LANES;  // outputs of one work item


inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Microseconds that waking torch's threads takes: under one where they spin, tens where they sleep. Measured once.
double wake_time();

// One thread's microseconds for reading weights and multiplying: what this takes on a core of about 25 GB/s and 160
// bf16 GFLOP/s.
inline double duration(int64_t bytes, int64_t products) { return double(bytes) / 25e3 + double(products) / 80e3; }

// Runs items 0..count - 1, each thread taking the next free one; alone where waking the others costs what they save.
template <class F>
void for_items(int64_t count, double microseconds, const F& run) {
  const bool alone = microseconds < 2 || at::get_num_threads() == 1 || microseconds < 2 * wake_time();
  const int64_t threads = alone ? 1 : std::min<int64_t>(count, at::get_num_threads());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t item; (item = next++) < count;) run(item);
  });
}

inline bool is_bf16(const Tensor& x) { return x.scalar_type() == at::kBFloat16; }
inline void check_values(const Tensor& x, const char* what) {
  TORCH_CHECK(is_bf16(x) || x.scalar_type() == at::kFloat, what, " must be bfloat16 or float32");
}

// A stack of packed matrices of one shape: see inner.h.
struct Stack {
  const uint32_t* words;
  const bf16* scales = nullptr;
  int64_t matrices, blocks, inputs;

  Stack(const Tensor& packed, const std::optional<Tensor>& scale) {
    TORCH_CHECK(packed.is_contiguous() && packed.dim() == 4 && packed.size(3) == LANES, "not a packed weight");
    TORCH_CHECK(packed.scalar_type() == at::kInt, "packed weights are int32 words");
    words = (const uint32_t*)packed.data_ptr();
    matrices = packed.size(0), blocks = packed.size(1), inputs = packed.size(2) * (scale ? 8 : 2);
    TORCH_CHECK(inputs % (scale ? 32 : 16) == 0, "packed inputs have the wrong multiple");
    if (scale) {
      TORCH_CHECK(scale->is_contiguous() && is_bf16(*scale) && scale->numel() == matrices * blocks * inputs / 32 * LANES,
                  "scales do not fit the packed weight");
      scales = (const bf16*)scale->data_ptr();
    }
  }
  Matrix matrix(int64_t index) const {
    return {words + index * blocks * bytes_per_block() / 4, scales ? scales + index * blocks * inputs / 32 * LANES : scales,
            inputs};
  }
  int64_t bytes_per_block() const { return inputs * LANES * 2 / (scales ? 4 : 1); }
};

// Activations as the chosen kernels multiply them, inputs padded with zeros.
struct Activations {
  std::vector<uint32_t> copy;
  Rows rows;

  // x: `count` rows of `inputs` values at x + row * stride.
  Activations(const void* x, bool x_is_bf16, int64_t count, int64_t inputs, int64_t stride, int64_t padded) {
    const bool fits = x_is_bf16 == chosen->dots_bf16;
    rows = {x, stride};
    if (fits && padded == inputs) return;
    const int64_t size = chosen->dots_bf16 ? 2 : 4;
    copy.resize(count * padded * size / 4);
    rows = {copy.data(), padded};
    for (int64_t r = 0; r < count; ++r) {
      const char* from = (const char*)x + r * stride * (x_is_bf16 ? 2 : 4);
      char* to = (char*)copy.data() + r * padded * size;
      if (fits) std::memcpy(to, from, inputs * size);
      else if (x_is_bf16) chosen->to_float((const bf16*)from, inputs, (float*)to);
      else chosen->to_bf16((const float*)from, inputs, (bf16*)to);
    }
  }
};

inline void write_row(const float* from, void* to, bool to_bf16, int64_t at, int64_t count) {
  if (to_bf16) chosen->to_bf16(from, count, (bf16*)to + at);
  else std::memcpy((float*)to + at, from, count * sizeof(float));
}

}  // namespace k25
