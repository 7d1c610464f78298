// What the operators share: checks, packed stacks and activations as the kernels want them.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "inner.h"
#include "threads.h"

namespace k25 {

extern const Kernels* chosen;

using at::Tensor;
constexpr int64_t ITEM = CHUNK * LANES;  // outputs of one work item

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool is_bf16(const Tensor& x) { return x.scalar_type() == at::kBFloat16; }
inline void check_values(const Tensor& x, const char* what) {
  TORCH_CHECK(is_bf16(x) || x.scalar_type() == at::kFloat, what, " must be bfloat16 or float32");
}
inline const float* floats(const Tensor& x, int64_t count, const char* what) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous() && (count < 0 || x.numel() == count), what,
              " must be dense float32 and fit the other inputs");
  return x.data_ptr<float>();
}

// A stack of packed matrices of one shape: see inner.h. int32 (S, blocks, ., 16), or uint8 (S, blocks, lines, 64) where
// bf16 is compressed; a header is never longer than a unit, so that the number of lines tells the inputs as well.
struct Stack {
  static constexpr int64_t LONGEST_HEADER = UNIT_LINES;

  const uint32_t* words;
  const bf16* scales = nullptr;
  int64_t matrices, blocks, inputs;
  int header = 0;

  Stack(const Tensor& packed, const std::optional<Tensor>& scale) {
    TORCH_CHECK(packed.is_contiguous() && packed.dim() == 4, "not a packed weight");
    words = (const uint32_t*)packed.data_ptr();
    matrices = packed.size(0), blocks = packed.size(1);
    if (packed.scalar_type() == at::kByte) {
      const int64_t lines = packed.size(2);
      TORCH_CHECK(!scale && packed.size(3) == LINE && lines > UNIT_LINES, "not a compressed weight");
      inputs = (lines - 1) / UNIT_LINES * UNIT_INPUTS, header = int((lines - 1) % UNIT_LINES + 1);
      return;
    }
    TORCH_CHECK(packed.scalar_type() == at::kInt && packed.size(3) == LANES, "packed weights are int32 words");
    inputs = packed.size(2) * (scale ? 8 : 2);
    TORCH_CHECK(inputs % (scale ? 32 : 16) == 0, "packed inputs have the wrong multiple");
    if (scale) {
      TORCH_CHECK(scale->is_contiguous() && is_bf16(*scale) && scale->numel() == matrices * blocks * inputs / 32 * LANES,
                  "scales do not fit the packed weight");
      scales = (const bf16*)scale->data_ptr();
    }
  }
  // Whether it takes so many inputs to so many outputs, but for the padding of both.
  bool maps(int64_t from, int64_t to) const {
    return from <= inputs && from + 32 > inputs && to <= blocks * LANES && to > (blocks - 1) * LANES;
  }
  Matrix matrix(int64_t index) const {
    return {words + index * blocks * bytes_per_block() / 4, scales ? scales + index * blocks * inputs / 32 * LANES : scales,
            inputs, header};
  }
  // Up to CHUNK blocks of a matrix; the place of those that are multiplied after them.
  Part part(int64_t index, int64_t block, const uint32_t* next) const {
    return {matrix(index), block, int(std::min<int64_t>(CHUNK, blocks - block)), next};
  }
  const uint32_t* place(int64_t index, int64_t block) const { return words + (index * blocks + block) * bytes_per_block() / 4; }
  int64_t bytes_per_block() const { return Matrix{words, scales, inputs, header}.words_per_block() * 4; }
  double duration_of(int64_t tokens) const {
    const int64_t all = matrices * blocks;
    return duration(all * bytes_per_block(), all * LANES * tokens * inputs);
  }
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
  bool fit(int64_t width) const {
    return !up || (up->inputs >= width && up->inputs < width + 32 && down->blocks == ceil_div(width, LANES));
  }
};

inline void write_row(const float* from, void* to, bool to_bf16, int64_t at, int64_t count) {
  if (to_bf16) chosen->to_bf16(from, count, (bf16*)to + at);
  else std::memcpy((float*)to + at, from, count * sizeof(float));
}

// Activations as the chosen kernels multiply them, inputs padded with zeros; `exact`: as float on every CPU.
struct Activations {
  std::vector<uint32_t> copy;
  Rows rows;

  // x: `count` rows of `inputs` values at x + row * stride.
  Activations(const void* x, bool x_is_bf16, int64_t count, int64_t inputs, int64_t stride, int64_t padded, bool exact = false) {
    const bool to_half = chosen->dots_bf16 && !exact, fits = x_is_bf16 == to_half;
    rows = {x, stride, to_half};
    if (fits && padded == inputs) return;
    const int64_t size = to_half ? 2 : 4;
    copy.resize(count * padded * size / 4);
    rows = {copy.data(), padded, to_half};
    for (int64_t r = 0; r < count; ++r) {
      const char* from = (const char*)x + r * stride * (x_is_bf16 ? 2 : 4);
      char* to = (char*)copy.data() + r * padded * size;
      if (fits) std::memcpy(to, from, inputs * size);
      else if (x_is_bf16) chosen->to_float((const bf16*)from, inputs, (float*)to);
      else chosen->to_bf16((const float*)from, inputs, (bf16*)to);
    }
  }
};

}  // namespace k25
