// Purpose: answer the driver's requests to change the page table: drop the entries of a range, or set what
// may be done with it. Frames are kept.
//
// A thread per CPU: the driver thread that asks sleeps at once, and its own CPU runs the answer.
// Waking a thread elsewhere costs about ten times as much. Requests are small and never block:
// MADV_DONTNEED and mprotect on a mapping of shared memory free no frame and fault nothing. Invariants:
// mailbox i is answered by thread i alone, in order of its sequence number. Their stacks are as large as a
// worker's: in a GPU's helper libcuda runs on them, which copies, maps, and compiles.
#include "shootdown.h"
#include "device.h"
#include "video_memory.h"
#include <cerrno>
#include <cstdio>
#include <sched.h>
#include <sys/mman.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kSleep = 1'000'000'000; // ns

struct Post {
  uint32_t index;
  int cpu;
} posts[kMaxWorkers];

void* answer(void* argument) {
  const Post& post = *static_cast<const Post*>(argument);
  Mailbox& box = channel->mailboxes[post.index];
  pin_to_cpu(post.cpu);
  for (uint32_t done = box.done.load();;) {
    const uint32_t request = box.request.load();
    if (request == done) {
      futex_wait(box.request, done, kSleep);
      continue;
    }
    box.error = change_table(MailboxOperation(box.operation), box.address, box.length);
    done = request;
    box.done.store(done);
    futex_wake(box.done, 1);
  }
  return nullptr;
}

} // namespace

bool start_shootdown() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0) CPU_SET(0, &allowed);
  for (auto& mailbox : channel->mailbox_of_cpu) mailbox = -1;
  uint32_t count = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && count < kMaxWorkers; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    posts[count] = {count, cpu};
    char name[16];
    snprintf(name, sizeof name, "zap-%u", count);
    if (!start_thread(name, kThreadStack, answer, &posts[count])) return false;
    if (uint32_t(cpu) < kMaxCpus) channel->mailbox_of_cpu[cpu] = int16_t(count);
    count++;
  }
  channel->mailbox_count = count;
  return true;
}

} // namespace hmmemu::device
