// Purpose: run the driver's wait lists with real threads, for `hmmemu bench waitqueue`: threads wait for
// pages, one thread wakes page after page, and all of it is timed and counted. The yardstick is a table of
// 256 queues, in which waiters of different pages share a queue: a wake-up walks the whole queue and wakes
// those of its page, as the Linux kernel does for pages (mm/filemap.c, folio_wake_bit).
//
// Both use the same Waiter (base/wait_list.h), wake after the lock was released, and give up after a limit.
// No address space takes part: pages are numbers, and all memory here is ordinary.
// LOCK: a page's list under the lock of its block, a queue of the table under its own lock.
#include "base/wait_list.h"
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "protocol/directory.h"
#include <memory>
#include <mutex>
#include <nanobind/stl/vector.h>
#include <pthread.h>
#include <stdexcept>
#include <vector>

namespace nb = nanobind;

namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr uint64_t kSettleNs = 20'000'000; // from standing in the list to sleeping in the kernel

uint64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

struct Entry : hmm::Waiter {
  uint64_t page = 0;
};

// Waiters that were taken out of a queue, and how many entries were looked at for that.
struct Taken {
  hmm::Waiter* first = nullptr;
  uint64_t walked = 0;
};

// What the driver does: a list a page.
class PageLists {
 public:
  explicit PageLists(uint64_t pages)
      : blocks_(new hmm::Block[(pages + hmm::kPagesPerBlock - 1) / hmm::kPagesPerBlock]()) {}
  void push(Entry& entry) {
    const std::lock_guard guard(block(entry.page).lock);
    list(entry.page).push(entry);
  }
  bool remove(Entry& entry) {
    const std::lock_guard guard(block(entry.page).lock);
    return list(entry.page).remove(entry);
  }
  Taken take(uint64_t page) {
    const std::lock_guard guard(block(page).lock);
    Taken taken{list(page).take_all()};
    for (hmm::Waiter* w = taken.first; w; w = w->next) taken.walked++;
    return taken;
  }

 private:
  hmm::Block& block(uint64_t page) { return blocks_[page / hmm::kPagesPerBlock]; }
  hmm::WaitList& list(uint64_t page) { return block(page).waiting[page % hmm::kPagesPerBlock]; }
  const std::unique_ptr<hmm::Block[]> blocks_;
};

constexpr unsigned kQueueBits = 8;

// Multiplicative, as hash_ptr of the kernel.
unsigned queue_of(uint64_t page) { return unsigned(page * 0x61C8864680B583EBull >> (64 - kQueueBits)); }

// The yardstick: 256 queues for all pages.
class HashedQueues {
 public:
  explicit HashedQueues(uint64_t) {}
  void push(Entry& entry) {
    Queue& queue = queues_[queue_of(entry.page)];
    const std::lock_guard guard(queue.lock);
    entry.next = nullptr;
    *queue.end = &entry;
    queue.end = &entry.next;
  }
  bool remove(Entry& entry) {
    Queue& queue = queues_[queue_of(entry.page)];
    const std::lock_guard guard(queue.lock);
    for (hmm::Waiter** at = &queue.head; *at; at = &(*at)->next) {
      if (*at != &entry) continue;
      unlink(queue, at);
      return true;
    }
    return false;
  }
  Taken take(uint64_t page) {
    Queue& queue = queues_[queue_of(page)];
    const std::lock_guard guard(queue.lock);
    Taken taken;
    hmm::Waiter** last = &taken.first;
    for (hmm::Waiter** at = &queue.head; *at; taken.walked++) {
      Entry& entry = static_cast<Entry&>(**at);
      if (entry.page != page) {
        at = &entry.next;
        continue;
      }
      unlink(queue, at);
      entry.next = nullptr;
      *last = &entry;
      last = &entry.next;
    }
    return taken;
  }

 private:
  struct alignas(64) Queue {
    hmm::Lock lock;
    hmm::Waiter* head = nullptr;
    hmm::Waiter** end = &head;
  };
  static void unlink(Queue& queue, hmm::Waiter** at) {
    if (queue.end == &(*at)->next) queue.end = at;
    *at = (*at)->next;
  }
  Queue queues_[1 << kQueueBits];
};

// What one run gives. Times are nanoseconds; `latency` is from the call that wakes a page to each of its
// waiters running, `spent` what that call takes.
struct Figures {
  std::vector<uint64_t> walked, spent, latency;
  uint64_t timed_out = 0;
};

template <class Queues> class Run {
 public:
  Run(uint64_t pages, const std::vector<uint64_t>& waiters, uint64_t limit_ns)
      : queues_(pages), limit_ns_(limit_ns), threads_(waiters.size()), called_at_(pages) {
    for (size_t i = 0; i < waiters.size(); i++) threads_[i] = {this, waiters[i]};
  }

  Figures operator()(const std::vector<uint64_t>& wake_order) {
    const bool all_there = start();
    Figures figures;
    // Also if a thread could not start: those that did are waiting.
    for (const uint64_t page : wake_order) wake_page(page, figures);
    for (size_t i = 0; i < started_; i++) pthread_join(threads_[i].handle, nullptr);
    if (!all_there) throw std::runtime_error("cannot start so many threads");
    for (const Thread& t : threads_)
      if (t.woke_at) figures.latency.push_back(t.woke_at - called_at_[t.page]);
    figures.timed_out = threads_.size() - figures.latency.size();
    return figures;
  }

 private:
  struct Thread {
    Run* run;
    uint64_t page;
    pthread_t handle;
    uint64_t woke_at; // 0: its limit ran out
  };

  static void* wait(void* argument) {
    Thread& t = *static_cast<Thread*>(argument);
    t.run->wait_for_page(t);
    return nullptr;
  }

  void wait_for_page(Thread& t) {
    Entry me;
    me.page = t.page;
    queues_.push(me);
    standing_.fetch_add(1);
    // A waiter that is no longer in the list was taken at the last moment: it will be woken.
    const bool woken =
        me.sleep(hmm::Limit(limit_ns_)) || (!queues_.remove(me) && me.sleep(hmm::Limit(limit_ns_)));
    t.woke_at = woken ? now_ns() : 0;
    if (running_.fetch_add(1) + 1 == goal_.load()) futex(running_, FUTEX_WAKE_PRIVATE, 1, nullptr);
  }

  bool start() {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    bool all = true;
    for (; all && started_ < threads_.size(); started_ += all)
      all = pthread_create(&threads_[started_].handle, &attributes, wait, &threads_[started_]) == 0;
    pthread_attr_destroy(&attributes);
    const timespec pause{0, long(kSettleNs)};
    while (standing_.load() < started_) nanosleep(&pause, nullptr);
    nanosleep(&pause, nullptr);
    return all;
  }

  // Wakes one page and waits until its waiters have run, so that pages do not disturb each other.
  void wake_page(uint64_t page, Figures& figures) {
    const uint64_t begin = called_at_[page] = now_ns();
    const Taken taken = queues_.take(page);
    uint32_t woken = 0;
    for (hmm::Waiter *w = taken.first, *next; w; w = next, woken++) {
      next = w->next; // first: a woken thread's waiter is gone
      hmm::wake(*w);
    }
    figures.spent.push_back(now_ns() - begin);
    figures.walked.push_back(taken.walked);
    await(woken);
  }

  // Waiters whose limit ran out count as well, so `running_` may be ahead; nobody waits longer than that.
  void await(uint32_t more) {
    const uint32_t goal = goal_.load() + more;
    goal_.store(goal);
    const uint64_t deadline = now_ns() + limit_ns_;
    for (uint32_t seen; (seen = running_.load()) < goal && now_ns() < deadline;) {
      const timespec slice{0, 100'000'000};
      futex(running_, FUTEX_WAIT_PRIVATE, seen, &slice);
    }
  }

  static void futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* limit) {
    syscall(SYS_futex, &word, operation, value, limit, nullptr, 0);
  }

  Queues queues_;
  const uint64_t limit_ns_;
  std::vector<Thread> threads_;
  std::vector<uint64_t> called_at_;
  size_t started_ = 0;
  std::atomic<uint32_t> standing_{0}, running_{0}, goal_{0};
};

template <class Queues>
Figures run(uint64_t pages, const std::vector<uint64_t>& waiters, const std::vector<uint64_t>& wake_order,
            uint64_t limit_ns) {
  return Run<Queues>(pages, waiters, limit_ns)(wake_order);
}

nb::dict run_waiters(bool hashed, uint64_t pages, const std::vector<uint64_t>& waiters,
                     const std::vector<uint64_t>& wake_order, double limit) {
  for (const auto* list : {&waiters, &wake_order})
    for (const uint64_t page : *list)
      if (page >= pages) throw nb::value_error("a page is not below `pages`");
  if (!(limit > 0 && limit <= 3600)) throw nb::value_error("the limit must be above 0 and at most an hour");
  Figures figures;
  {
    const Unlocked released;
    const uint64_t limit_ns = uint64_t(limit * 1e9);
    figures = hashed ? run<HashedQueues>(pages, waiters, wake_order, limit_ns)
                     : run<PageLists>(pages, waiters, wake_order, limit_ns);
  }
  nb::dict result;
  result["walked"] = nb::cast(figures.walked);
  result["spent_ns"] = nb::cast(figures.spent);
  result["latency_ns"] = nb::cast(figures.latency);
  result["timed_out"] = figures.timed_out;
  return result;
}

} // namespace

void bind_wait_bench(nb::module_& m) {
  m.def("run_waiters", &run_waiters, nb::arg("hashed"), nb::arg("pages"), nb::arg("waiters"),
        nb::arg("wake_order"), nb::arg("limit"),
        "A thread for each entry of `waiters` waits for that page; then the pages of `wake_order` are woken. "
        "A thread that is not woken gives up after `limit` seconds.");
  m.def("wait_queue_of", &queue_of, nb::arg("page"), "The queue of a page in a table of 256.");
}
