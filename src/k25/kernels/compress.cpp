// Packed bf16 weights in 12 bits each, to the bit. A weight's high byte is its sign and all of its exponent but the last
// bit; sixteen of them, each block's own, cover nearly all weights of a trained matrix, so four bits tell which. The rest
// are the block's exceptions. inner.h has the layout.
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>

#include "operators.h"

namespace k25 {
namespace {

constexpr int64_t BLOCKS_AT_ONCE = 16;  // of a thread
constexpr int NO_CODE = 16;

int64_t weights_per_block(const Stack& stack) { return stack.inputs * LANES; }
const bf16* block_of(const Stack& stack, int64_t block) { return (const bf16*)stack.words + block * weights_per_block(stack); }

// How often a block has each high byte; the sixteen most frequent come first in `order`.
struct HighBytes {
  std::array<int64_t, 256> count{};
  std::array<int, 256> order;

  HighBytes(const bf16* weights, int64_t number) {
    int32_t counts[4][256] = {};  // in turns: an increment waits for one of the same place just before
    for (int64_t i = 0; i < number; ++i) ++counts[i % 4][weights[i] >> 8];
    for (int high = 0; high < 256; ++high)
      for (const auto& part : counts) count[high] += part[high];
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + 16, order.end(),
                      [&](int a, int b) { return count[a] != count[b] ? count[a] > count[b] : a < b; });
  }
  int64_t exceptions() const {
    return std::accumulate(order.begin() + 16, order.end(), int64_t(0), [&](int64_t sum, int high) { return sum + count[high]; });
  }
};

// Lines that every block of the stack takes compressed; 0 where one has more exceptions than the longest header holds, or
// where nothing would be saved.
int64_t compressed_lines(const Tensor& packed) {
  const Stack stack(packed, std::nullopt);
  TORCH_CHECK(!stack.header, "the weight is compressed already");
  if (weights_per_block(stack) >= 1 << 24) return 0;  // places of exceptions have 24 bits
  std::atomic<int64_t> most{0};
  at::parallel_for(0, stack.matrices * stack.blocks, BLOCKS_AT_ONCE, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t found = HighBytes(block_of(stack, block), weights_per_block(stack)).exceptions();
      for (int64_t before = most; before < found && !most.compare_exchange_weak(before, found);) continue;
    }
  });
  const int64_t header = ceil_div((TABLE_WORDS + most + 1) * int64_t(sizeof(uint32_t)), LINE);
  const int64_t lines = header + stack.inputs / UNIT_INPUTS * UNIT_LINES;
  return header <= Stack::LONGEST_HEADER && lines * LINE < stack.bytes_per_block() ? lines : 0;
}

void compress_block(const bf16* weights, int64_t number, int header, uint8_t* to) {
  const HighBytes high_bytes(weights, number);
  TORCH_CHECK(TABLE_WORDS + high_bytes.exceptions() + 1 <= header * LANES, "the compressed weight has no room for exceptions");
  std::array<uint8_t, 256> code;
  code.fill(NO_CODE);
  for (int i = 0; i < 16; ++i) code[high_bytes.order[i]] = uint8_t(i), to[i] = uint8_t(high_bytes.order[i]);
  uint32_t* exception = (uint32_t*)to + TABLE_WORDS;
  std::fill(exception, (uint32_t*)(to + header * LINE), ~0u);
  uint8_t* unit = to + header * LINE;
  for (int64_t first = 0; first < number; first += UNIT_WEIGHTS, unit += UNIT_BYTES) {
    std::memset(unit + UNIT_WEIGHTS, 0, UNIT_BYTES - UNIT_WEIGHTS);
    for (int i = 0; i < UNIT_WEIGHTS; ++i) {
      const bf16 weight = weights[first + i];
      const uint8_t known = code[weight >> 8];
      unit[low_byte_of(i)] = uint8_t(weight);
      if (known == NO_CODE) *exception++ = uint32_t(first + i) << 8 | weight >> 8;
      else unit[code_byte_of(i)] |= uint8_t(known << code_shift_of(i));
    }
  }
}

// packed int32 (S, blocks, inputs / 2, 16) -> out uint8 (S, blocks, lines, 64).
void compress(const Tensor& packed, const Tensor& out) {
  const Stack from(packed, std::nullopt), to(out, std::nullopt);
  TORCH_CHECK(!from.header && to.header && from.matrices == to.matrices && from.blocks == to.blocks &&
              from.inputs == to.inputs, "the compressed weight has another shape");
  at::parallel_for(0, from.matrices * from.blocks, BLOCKS_AT_ONCE, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      compress_block(block_of(from, block), weights_per_block(from), to.header, (uint8_t*)to.words + block * to.bytes_per_block());
  });
}

}  // namespace
}  // namespace k25

TORCH_LIBRARY_FRAGMENT(k25_kernels, m) {
  m.def("compressed_lines(Tensor packed) -> int");
  m.def("compress(Tensor packed, Tensor(a!) out) -> ()");
}

TORCH_LIBRARY_IMPL(k25_kernels, CPU, m) {
  m.impl("compressed_lines", k25::compressed_lines);
  m.impl("compress", k25::compress);
}
