// Purpose: rights and tickets of pages; the driver's requests to change them (device/process/video_memory.h).
// No lock: the driver has a page locked while it changes its rights, and tickets are written by worker 0
// alone.
#include "residency.h"

#include "device/process/failure.h"
#include "device/process/page_fault.h"
#include "device/process/video_memory.h"
#include "gpu_memory.h"
#include "keeper.h"
#include "variables.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

using namespace device;

// Of kernels. Taken: none, and the content is here alone until it has been copied home. Bit 0 says that of
// both (the keeper asks).
enum Right : uint8_t { kNone = 0, kTaken = 1, kRead = 2, kWrite = 3 };
constexpr uint8_t kOnlyHere = 1;
constexpr uint64_t kReportLimit = 5'000'000'000;  // ns
constexpr uint64_t kBringLimit = 300'000'000'000; // ns

std::atomic<uint8_t>* rights =
    nullptr; // a Right for each page of the address space; touched where there are ranges
std::atomic<uint64_t>* tickets = nullptr; // for each block, the last launch that uses it
std::unique_ptr<GpuMemory> memory;

uint64_t block_of(uint64_t address) { return address / kGranule * kGranule; }
std::atomic<uint8_t>& right(uint64_t page) { return rights[page / kPage]; }
std::atomic<uint64_t>& ticket_of(uint64_t address) { return tickets[address / kGranule]; }

bool may_be_running(uint64_t block) { return ticket_of(block).load() > channel->queue.completed.load(); }

// No kernel uses the block, or one that was about to has withdrawn. The driver's own limit ends a wait that
// is too long.
void wait_until_unused(uint64_t block) {
  while (may_be_running(block)) usleep(20);
}

bool has_rights(uint64_t block) {
  for (uint64_t page = block; page < block + kGranule; page += kPage)
    if (right(page).load() != kNone) return true;
  return false;
}

bool in_use(uint64_t block) { return may_be_running(block) || has_rights(block); }

// Calls act(begin, end, right) for each run of pages with the same rights.
template <class Act> void each_run(uint64_t begin, uint64_t end, Act act) {
  while (begin < end) {
    const uint8_t same = right(begin).load();
    uint64_t to = begin + kPage;
    while (to < end && right(to).load() == same) to += kPage;
    act(begin, to, Right(same));
    begin = to;
  }
}

void set(uint64_t begin, uint64_t end, Right to) {
  for (uint64_t page = begin; page < end; page += kPage) right(page).store(to);
}

// What a kernel may have written comes to the file, once no kernel uses it.
void take(uint64_t begin, uint64_t end, Right left) {
  each_run(begin, end, [&](uint64_t from, uint64_t to, Right had) {
    if (had <= left) return;
    if (had == kWrite) {
      set(from, to, kTaken);
      wait_until_unused(block_of(from));
      memory->copy_out(from, to - from);
    }
    set(from, to, left);
  });
}

void give(uint64_t begin, uint64_t end, Right wanted) {
  each_run(begin, end, [&](uint64_t from, uint64_t to, Right had) {
    if (had >= wanted) return;
    if (had == kNone) memory->copy_in(from, to - from);
    set(from, to, wanted);
  });
}

void change_block(MailboxOperation operation, uint64_t begin, uint64_t end) {
  const bool gives = operation == kRightsRead || operation == kRightsWrite || operation == kStore;
  if (!gives && !has_rights(block_of(begin))) return; // nothing is there
  const GpuMemory::Use use(*memory, block_of(begin));
  if (gives) variables_came(begin, end);
  switch (operation) {
  case kDropEntries:
    break;
  case kRightsNone:
    return take(begin, end, kNone);
  case kRightsRead:
    take(begin, end, kRead);
    return give(begin, end, kRead);
  case kRightsWrite:
    return give(begin, end, kWrite);
  case kFetch:
  case kStore:
    wait_until_unused(block_of(begin));
    each_run(begin, end, [&](uint64_t from, uint64_t to, Right had) {
      if (operation == kFetch && had == kWrite) memory->copy_out(from, to - from);
      if (operation == kStore && had != kNone) memory->copy_in(from, to - from);
    });
  }
}

template <class Act> void each_block(const Slot& slot, Act act) {
  each_reach(*channel, slot, [&](const Reach& reach) {
    for (uint64_t block = block_of(reach.begin); block < reach.end; block += kGranule) act(block);
    return true;
  });
}

struct Missing {
  uint64_t address = 0; // 0: nothing is missing
  bool writes = false;
};

Missing first_missing(const Slot& slot) {
  Missing missing;
  each_reach(*channel, slot, [&](const Reach& reach) {
    const uint64_t page = first_without(reach.begin, reach.end, reach.writes != 0);
    if (page) missing = {page, reach.writes != 0};
    return !page;
  });
  return missing;
}

// Worker 0 hears of it, too, and says which kernel it was.
void wait_for_report() {
  const uint64_t limit = now_ns() + kReportLimit;
  while (channel->queue.completed.load() < channel->queue.produced.load() && now_ns() < limit) usleep(1000);
}

const char* open_gpu_memory(int file) {
  static std::string error;
  void* const shared = mmap(nullptr, kVramBytes / kPage, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  rights =
      shared == MAP_FAILED ? nullptr : static_cast<std::atomic<uint8_t>*>(shared); // the keeper looks, too
  tickets =
      reinterpret_cast<std::atomic<uint64_t>*>(reserve_memory(kVramBytes / kGranule * sizeof *tickets, 0));
  if (!rights || !tickets) return "no address space for the GPU's page table (a limit? see `ulimit -v`)";
  if (const char* const why = start_keeper(file, rights, kOnlyHere)) return why;
  try {
    memory = std::make_unique<GpuMemory>(int(channel->gpu), file, in_use);
  } catch (const CudaError& failed) {
    error = failed.what();
    return error.c_str();
  }
  return nullptr;
}

} // namespace

GpuMemory& gpu() { return *memory; }

uint64_t first_without(uint64_t begin, uint64_t end, bool writes) {
  const uint8_t needed = writes ? kWrite : kRead;
  for (uint64_t page = begin / kPage * kPage; page < end; page += kPage)
    if (right(page).load() < needed) return page;
  return 0;
}

void bring_pages(const Slot& slot, uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch) {
  const uint64_t deadline = now_ns() + kBringLimit;
  for (;;) {
    each_block(slot, [&](uint64_t block) { ticket_of(block).store(ticket); });
    const Missing missing = first_missing(slot);
    if (!missing.address) return;
    each_block(slot, [&](uint64_t block) { ticket_of(block).store(0); }); // whoever waits for us need not
    if (now_ns() > deadline)
      fail_launch(
          ticket,
          "the kernel's pages were taken away faster than they came, for 300 s: does the CPU write to its "
          "arrays all the time?");
    if (!ask_for_page(missing.address, missing.writes))
      fail_access(ticket, kernel, launch, missing.address, missing.writes);
  }
}

} // namespace hmmemu::cuda

namespace hmmemu::device {

using namespace cuda;

const char* open_video_memory(int vram) { return cuda::open_gpu_memory(vram); }
bool is_watched(uint64_t) { return false; }
void forget_entries() {} // a kernel faults nowhere

int map_video(const Userfault&, int, uint64_t address, uint64_t length) {
  try {
    return gpu().reserve(block_of(address), block_of(address + length + kGranule - 1));
  } catch (const CudaError& error) {
    return error.result == kOutOfMemory ? ENOMEM : EIO;
  }
}

// Addresses stay reserved: others may be in the same blocks, and they cost nothing.
int unmap_video(uint64_t address, uint64_t length) { return change_table(kRightsNone, address, length); }

int change_table(MailboxOperation operation, uint64_t address, uint64_t length) {
  try {
    for (uint64_t at = address, end = address + length; at < end; at = block_of(at) + kGranule) {
      if (!gpu().reserved(at)) {
        if (operation == kRightsRead || operation == kRightsWrite) return EFAULT;
        continue;
      }
      change_block(operation, at, std::min(end, block_of(at) + kGranule));
    }
  } catch (const CudaError& error) {
    if (error.result == kOutOfMemory) return ENOMEM;
    if (error.result >= kIllegalAddress && error.result < 800) wait_for_report(); // the context is broken
    fail_device(error.what());
  }
  return 0;
}

} // namespace hmmemu::device
