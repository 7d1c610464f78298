// Threads that share loops over work items: a leader, and torch's other threads awake through all loops of an operator.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace k25 {

// Microseconds that waking torch's threads takes: under one where they spin, tens where they sleep. Measured once.
double wake_time();

// One thread's microseconds for reading weights and multiplying: what this takes on a core of about 25 GB/s and 160
// bf16 GFLOP/s.
inline double duration(int64_t bytes, int64_t products) { return double(bytes) / 25e3 + double(products) / 80e3; }

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

struct Taken {
  int64_t item = -1, next = -1;
};

// Neighbouring items of one thread, from which others take the last ones.
class alignas(64) Share {
 public:
  void set(int64_t begin, int64_t end) { range_.store({int32_t(begin), int32_t(end)}, std::memory_order_relaxed); }
  int64_t left() const {
    const Range range = range_.load(std::memory_order_relaxed);
    return range.end - range.begin;
  }
  Taken first() {
    return take([](Range& range) { return Taken{range.begin++, range.begin}; });
  }
  Taken last() {
    return take([](Range& range) { return Taken{--range.end, range.end - 1}; });
  }

 private:
  struct Range {
    int32_t begin, end;
  };

  template <class F>
  Taken take(const F& one) {
    for (Range before = range_.load(std::memory_order_relaxed); before.begin < before.end;) {
      Range after = before;
      Taken taken = one(after);
      if (after.begin == after.end) taken.next = -1;
      if (range_.compare_exchange_weak(before, after, std::memory_order_relaxed)) return taken;
    }
    return {};
  }

  std::atomic<Range> range_{};
};

// The leader runs the code between loops and takes items like everybody else. No loop waits for a helper that the
// system has taken off its core, unless it was in the middle of an item. How many helpers come does not matter.
class Crew {
 public:
  explicit Crew(bool alone) : alone_(alone) {}
  Crew(const Crew&) = delete;

  // Runs items 0..count - 1, each thread taking the next free one; returns when all are done. Items must not throw.
  template <class F>
  void each(int64_t count, const F& run) {
    if (alone_ || count <= 1) {
      for (int64_t item = 0; item < count; ++item) run(item);
      return;
    }
    work_ = &run;
    call_ = [](const void* work, int64_t item) { (*static_cast<const F*>(work))(item); };
    count_ = count;
    done_.store(0, std::memory_order_relaxed);
    left_.store(count, std::memory_order_release);
    announce();
    while (take()) continue;
    for (int tries = 0; done_.load(std::memory_order_acquire) < count; ++tries)
      if (tries < BRIEF) relax();
      else std::this_thread::yield();
  }

  // run(item, next): each thread takes neighbours from its own share, then the last ones of the fullest. `next` is the item
  // that it takes after this one unless another is faster, so that it may be fetched ahead; -1 where that is not known.
  template <class F>
  void in_order(int64_t count, const F& run) {
    const int64_t threads = alone_ ? 1 : std::min<int64_t>(at::get_num_threads(), count);
    std::vector<Share> shares(threads);
    for (int64_t t = 0; t < threads; ++t) shares[t].set(t * count / threads, (t + 1) * count / threads);
    each(threads, [&](int64_t own) {
      Taken taken;
      while ((taken = shares[own].first()).item >= 0) run(taken.item, taken.next);
      const auto fuller = [](const Share& a, const Share& b) { return a.left() < b.left(); };
      for (Share* from; (from = &*std::max_element(shares.begin(), shares.end(), fuller))->left() > 0;)
        if ((taken = from->last()).item >= 0) run(taken.item, taken.next);
    });
  }

  // What a helper does until the leader dismisses it.
  void help() {
    for (;;) {
      const int32_t seen = call_number_.load(std::memory_order_acquire);
      if (dismissed_.load(std::memory_order_acquire)) return;
      while (take()) continue;
      for (int tries = 0; tries < BRIEF && call_number_.load(std::memory_order_acquire) == seen; ++tries) relax();
      call_number_.wait(seen, std::memory_order_acquire);
    }
  }

  void dismiss() {
    dismissed_.store(true, std::memory_order_release);
    announce();
  }

 private:
  static constexpr int BRIEF = 2000;  // pauses: tens of microseconds, as long as the leader's work between two loops

  void announce() {
    call_number_.fetch_add(1, std::memory_order_release);
    call_number_.notify_all();
  }

  // Whoever takes a positive number has an item of the present loop: the leader waits for it before it changes anything.
  bool take() {
    if (left_.load(std::memory_order_relaxed) <= 0) return false;
    const int64_t left = left_.fetch_sub(1, std::memory_order_acq_rel);
    if (left <= 0) return false;
    call_(work_, count_ - left);
    done_.fetch_add(1, std::memory_order_acq_rel);
    return true;
  }

  const bool alone_;
  const void* work_ = nullptr;
  void (*call_)(const void*, int64_t) = nullptr;
  int64_t count_ = 0;
  // Apart, since all threads write to them.
  alignas(64) std::atomic<int64_t> left_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int32_t> call_number_{0};
  std::atomic<bool> dismissed_{false};
};

// lead(crew), alone where waking the others costs what they save.
template <class F>
void with_crew(double microseconds, const F& lead) {
  const bool alone = microseconds < 2 || at::get_num_threads() == 1 || microseconds < 2 * wake_time();
  Crew crew(alone);
  if (alone) return lead(crew);
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t first, int64_t) {
    if (first > 0) return crew.help();
    struct AtTheEnd {
      Crew& crew;
      ~AtTheEnd() { crew.dismiss(); }
    } dismissal{crew};
    lead(crew);
  });
}

// One loop.
template <class F>
void for_items(int64_t count, double microseconds, const F& run) {
  with_crew(microseconds, [&](Crew& crew) { crew.each(count, run); });
}

}  // namespace k25
