// Threads that share the items of one operator. Plain C++, no torch: one crew serves the whole process.
//
// Two things differ from a parallel region of OpenMP. Helpers join while there is work and are not waited for unless
// they have: one that sleeps, or that another process keeps off its core, delays nobody. And they spin for a moment
// after each operator, so that the many short ones of a decode step find them awake, then sleep.
#pragma once
#include <atomic>
#include <cstdint>

namespace k25 {

// One operator's work: items 0..count - 1 in any order, each by whoever takes it first.
struct Job {
  void (*run)(const void* what, int64_t item);
  const void* what;
  int64_t count;
  std::atomic<int64_t> next{0};

  void take_items() {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;) run(what, item);
  }
};

// Works on `job` with up to `helpers` other threads until it is done; alone while another caller has the helpers. `wake`
// says whether it is long enough to wake those asleep. No item may throw.
void work_together(Job& job, int helpers, bool wake);

}  // namespace k25
