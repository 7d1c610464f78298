#include "threads.h"

#include <pthread.h>

#include <chrono>
#include <mutex>
#include <thread>

namespace k25 {
namespace {

using Clock = std::chrono::steady_clock;
// Longer than the work between two operators of a step, shorter than what anyone would notice beside one.
constexpr auto SPIN_TIME = std::chrono::microseconds(200);
constexpr int PAUSES = 32;  // between two offers of the core to whoever needs it more

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Crew {
  std::mutex busy;  // held by the caller whose job is on offer
  std::atomic<Job*> offered{nullptr};
  std::atomic<int> room{0};     // how many may still join the job
  std::atomic<int> present{0};  // helpers between looking at the job and leaving it
  std::atomic<uint32_t> offers{0};
  int size = 0;

  void grow(int helpers) {
    for (; size < helpers; ++size) std::thread([this] { serve(); }).detach();
  }

  // A caller withdraws its job before it looks at `present`, a helper is present before it looks at the job: either the
  // helper finds none or the caller sees it.
  void join() {
    ++present;
    if (Job* job = offered.load()) {
      if (room.fetch_sub(1) > 0) job->take_items();
    }
    --present;
  }

  void serve() {
    for (uint32_t seen = 0;;) {
      for (auto until = Clock::now() + SPIN_TIME; offers.load(std::memory_order_relaxed) == seen;) {
        for (int i = 0; i < PAUSES; ++i) pause();
        std::this_thread::yield();
        if (Clock::now() > until) offers.wait(seen);
      }
      seen = offers.load();
      join();
    }
  }

  void work(Job& job, int helpers, bool wake) {
    grow(helpers);
    room = helpers;
    offered = &job;
    ++offers;
    if (wake) offers.notify_all();
    job.take_items();
    offered = nullptr;
    for (int spins = 1; present.load() > 0; ++spins) {
      pause();
      if (spins % (8 * PAUSES) == 0) std::this_thread::yield();
    }
  }
};

// Never destroyed, since its threads outlive main; made anew in a forked process, which has none of them.
Crew* crew = new Crew;
[[maybe_unused]] const int watching = pthread_atfork(nullptr, nullptr, [] { crew = new Crew; });

}  // namespace

void work_together(Job& job, int helpers, bool wake) {
  Crew& all = *crew;
  if (const std::unique_lock mine(all.busy, std::try_to_lock); mine.owns_lock()) return all.work(job, helpers, wake);
  job.take_items();
}

}  // namespace k25
