// Weights are fetched by hand: the processor's own prefetching begins anew at every block, and falls behind where a line is
// worked on for long.
#pragma once
#include "inner.h"

namespace k25 {
namespace {

// Fetches what is read soon: a little further on in a block, at its end the beginning of the block that is read after it.
class Fetcher {
 public:
  Fetcher() = default;
  // Lines that each call fetches divide the block's.
  Fetcher(const void* block, int64_t lines, const void* next) : next_((const char*)next) {
    end_ = (const char*)block + lines * LINE;
    at_ = lines > SOON ? (const char*)block + SOON * LINE : next_;
  }
  template <int LINES>
  void fetch() {
    static_assert(SOON % LINES == 0);
#pragma GCC unroll 16
    for (int line = 0; line < LINES; ++line) __builtin_prefetch(at_ + line * LINE);
    at_ += LINES * LINE;
    if (at_ == end_) at_ = next_;
  }

 private:
  static constexpr int64_t SOON = 4 * UNIT_LINES;
  const char *at_, *end_, *next_;
};

// Of block n of a part whose blocks are nothing but weights.
inline Fetcher fetcher(const Part& part, int n) {
  const int64_t words = part.matrix.words_per_block();
  return {part.words() + n * words, words / LANES, part.ahead() + n * words};
}

}  // namespace
}  // namespace k25
