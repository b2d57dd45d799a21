// Purpose: find out which launches have ended, report them in order, blame the one that failed. Locks: see
// the header.
#include "in_flight.h"

#include "device/process/failure.h"
#include "device/process/modules.h"
#include "device/process/tickets.h"
#include "gpu_memory.h"
#include "output.h"
#include "residency.h"

#include <algorithm>
#include <mutex>
#include <sys/mman.h>
#include <sys/prctl.h>

namespace hmmemu::cuda {
namespace {

using namespace device;

constexpr unsigned kDeviceMap = 2;                         // CU_MEMHOSTREGISTER_DEVICEMAP
constexpr uint64_t kShortest = 20'000, kLongest = 100'000; // ns between two looks
constexpr uint64_t kAsk = 1'000'000;       // ns without an end after which CUDA is asked for failures
constexpr uint64_t kIdle = 1'000'000;      // ns without launches after which the thread sleeps
constexpr uint64_t kSleep = 1'000'000'000; // ns
constexpr unsigned kLooksPerClock = 32;

Stream* stream = nullptr;
std::atomic<uint64_t>* word =
    nullptr; // written by the GPU: the last launch that ended; null: no launch writes it
Address word_there = kNowhere;
std::atomic<uint64_t> sent{0};
std::atomic<uint64_t> known_to_have_ended{0}; // without the word
std::atomic<uint64_t> alone{0};               // the last launch that needs nobody
std::mutex reporting;
std::atomic<uint32_t> asleep{0}, bell{0}; // of the thread that reports

uint64_t completed() { return channel->queue.completed.load(); }
bool any() { return sent.load() != completed(); }

bool has_ended(uint64_t ticket) {
  return slot_of_ticket(ticket).kind == kSlotMarker || known_to_have_ended.load() >= ticket ||
         (word && word->load(std::memory_order_acquire) >= ticket);
}

void raise(std::atomic<uint64_t>& value, uint64_t to) {
  uint64_t had = value.load();
  while (had < to && !value.compare_exchange_weak(had, to)) {}
}

// Caller must hold `reporting`.
void report_all() {
  for (uint64_t ticket = completed() + 1; ticket <= sent.load() && has_ended(ticket); ticket++) {
    Slot& slot = slot_of_ticket(ticket);
    if (slot.kind == kSlotMarker) slot.time_ns = now_ns();
    complete(ticket);
  }
}

// Nothing has ended for a while: does it run, or has it failed?
void ask_for_failure() {
  const uint64_t last = sent.load();
  const Libcuda& cuda = libcuda();
  const Result result = cuda.stream_query.ask(stream);
  if (result == kNotReady) return;
  if (result == kSuccess) return raise(known_to_have_ended, last);
  const std::lock_guard hold(reporting);
  report_all();       // what had ended before
  if (!any()) return; // it was none of ours: who called CUDA hears of it
  const uint64_t ticket = completed() + 1;
  try {
    check(result, cuda.stream_query.name(),
          std::string("run kernel ") + find_kernel(slot_of_ticket(ticket).kernel)->name);
  } catch (const CudaError& error) {
    fail_on_gpu(ticket, error);
  }
}

// Sleeps for a sixteenth of the time since `begin`: kernels that take long are seen to end almost in time,
// and the thread costs next to nothing.
void rest(uint64_t begin) {
  const timespec time{0, long(std::clamp((now_ns() - begin) / 16, kShortest, kLongest))};
  nanosleep(&time, nullptr);
}

void sleep_until_launch() {
  asleep.store(1);
  const uint32_t heard = bell.load();
  if (!any()) futex_wait(bell, heard, kSleep, Scope::process);
  asleep.store(0);
}

// Until nothing has been in flight for a while.
void watch_launches() {
  uint64_t last = completed(), since = now_ns(), asked = since; // since: when `last` was first seen
  for (;;) {
    report_ended();
    const uint64_t now = now_ns();
    if (const uint64_t done = completed(); done != last) last = done, since = asked = now;
    if (!any()) {
      if (now - since > kIdle) return;
    } else if (now - asked > kAsk) {
      ask_for_failure();
      asked = now;
    }
    rest(since);
  }
}

void* report_main(void*) {
  try {
    gpu().enter_context();
  } catch (const CudaError& error) {
    fail_device(error.what());
  }
  prctl(PR_SET_TIMERSLACK, 1000); // ns; 50 µs by default, more than a rest
  for (;;) {
    sleep_until_launch();
    watch_launches();
  }
}

// As the thread above, which sees failures.
void wait_until_completed(uint64_t ticket) {
  const uint64_t begin = now_ns();
  while (completed() < ticket) {
    for (unsigned i = 0; i < kLooksPerClock && completed() < ticket; i++) {
      report_ended();
      cpu_pause();
    }
    if (now_ns() - begin > channel->spin_ns) rest(begin);
  }
}

// Memory that the GPU may write, null if there is none. `there`: where the GPU has it.
std::atomic<uint64_t>* make_word(Address& there) {
  const Libcuda& cuda = libcuda();
  void* const page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return nullptr;
  if (cuda.pin.ask(page, kPage, kDeviceMap) != kSuccess) return munmap(page, kPage), nullptr;
  return cuda.host_address.ask(&there, page, 0) == kSuccess ? static_cast<std::atomic<uint64_t>*>(page)
                                                            : nullptr;
}

// Word stays null where the GPU cannot write it, whatever it says of itself: that is tried.
void find_word() {
  const Libcuda& cuda = libcuda();
  if (!cuda.write_behind.there() || !attribute(gpu().gpu(), kStreamWrites)) return;
  std::atomic<uint64_t>* const found = make_word(word_there);
  if (!found) return;
  found->store(UINT64_MAX);
  if (cuda.write_behind.ask(stream, word_there, completed(), 0) == kSuccess &&
      cuda.stream_wait.ask(stream) == kSuccess && found->load() == completed())
    word = found;
}

} // namespace

const char* open_flight(Stream* kernels) {
  stream = kernels;
  sent = completed();
  find_word();
  return start_thread("report", kThreadStack, report_main, nullptr)
             ? nullptr
             : "cannot start the thread that reports the end of kernels";
}

bool can_follow() { return word != nullptr; }

void follow(uint64_t ticket) {
  libcuda().write_behind("report the end of a kernel", stream, word_there, ticket, 0);
  mark(ticket);
}

void pass(uint64_t ticket) {
  raise(known_to_have_ended, ticket);
  mark(ticket);
}

void mark(uint64_t ticket) {
  sent.store(ticket);
  if (asleep.load() == 0) return;
  bell.fetch_add(1);
  futex_wake(bell, 1, Scope::process);
}

void report_ended() {
  if (!any() || !has_ended(completed() + 1)) return;
  const std::unique_lock hold(reporting, std::try_to_lock);
  if (hold) report_all();
}

void needs_nobody(uint64_t ticket) { alone.store(ticket); }

// What began before those began alone, or has ended.
void wait_for_memory() { wait_until_completed(alone.load()); }

void wait_for_room() {
  if (sent.load() >= kDepth) wait_until_completed(sent.load() - kDepth + 1);
}

void fail_on_gpu(uint64_t ticket, const CudaError& error) {
  const Slot& slot = slot_of_ticket(ticket);
  deliver_printf();
  device::fail_on_gpu(ticket, *find_kernel(slot.kernel), launch_of(slot), error.result,
                      (error.what() + ("\n" + deliver_errors())).c_str());
}

void wait_for_all() { wait_until_completed(sent.load()); }

} // namespace hmmemu::cuda
