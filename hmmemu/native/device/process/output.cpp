// Purpose: append a kernel's printf text to the channel's ring. Several workers at once; the CPU
// process reads. Invariants: text in [tail, head) is whole; a text that does not fit is dropped and
// counted, never cut. Lock: Output::lock, among the workers of this process, held for one copy. The
// reader takes no lock.
#include "output.h"
#include <algorithm>
#include <cstring>
#include <sched.h>

namespace hmmemu::device {
namespace {

void lock(Output& out) {
  for (unsigned turn = 1; out.lock.exchange(1, std::memory_order_acquire) != 0; turn++) {
    if (turn % 64 == 0) sched_yield();
    cpu_pause();
  }
}

} // namespace

void print(hmm_worker* worker, const char* text, size_t bytes) {
  Output& out = channel->output;
  if (reinterpret_cast<Worker*>(worker)->rerun) // this block has printed before
    return;
  lock(out);
  const uint64_t head = out.head.load(std::memory_order_relaxed);
  const uint64_t used = head - out.tail.load(std::memory_order_acquire);
  if (used > kOutputBytes || bytes > kOutputBytes - used) {
    out.dropped.fetch_add(bytes, std::memory_order_relaxed);
  } else {
    const size_t start = head % kOutputBytes;
    const size_t first = std::min<size_t>(bytes, kOutputBytes - start);
    memcpy(out.text + start, text, first);
    memcpy(out.text, text + first, bytes - first);
    out.head.store(head + bytes, std::memory_order_release);
  }
  out.lock.store(0, std::memory_order_release);
}

} // namespace hmmemu::device
