// Purpose: rights and tickets of pages; the driver's requests to change them (device/process/video_memory.h).
// No lock: the driver has a page locked while it changes its rights, and tickets are written by worker 0
// alone.
#include "residency.h"

#include "device/process/failure.h"
#include "device/process/page_fault.h"
#include "device/process/video_memory.h"
#include "content.h"
#include "gpu_memory.h"
#include "keeper.h"
#include "page_bits.h"
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

constexpr uint64_t kReportLimit = 5'000'000'000;  // ns
constexpr uint64_t kBringLimit = 300'000'000'000; // ns

std::atomic<uint64_t>* tickets = nullptr; // for each block, the last launch that uses it
std::unique_ptr<GpuMemory> memory;

uint64_t block_of(uint64_t address) { return address / kGranule * kGranule; }
std::atomic<uint64_t>& ticket_of(uint64_t address) { return tickets[address / kGranule]; }

bool may_be_running(uint64_t block) { return ticket_of(block).load() > channel->queue.completed.load(); }

// No kernel uses the block, or one that was about to has withdrawn. The driver's own limit ends a wait that
// is too long.
void wait_until_unused(uint64_t block) {
  while (may_be_running(block)) usleep(20);
}

bool has_pages(uint64_t block) {
  for (uint64_t page = block; page < block + kGranule; page += kPage)
    if (bits(page).load() != 0) return true;
  return false;
}

bool in_use(uint64_t block) { return may_be_running(block) || has_pages(block); }

void lose_shadow(uint64_t block) {
  for (uint64_t page = block; page < block + kGranule; page += kPage)
    if (bits(page).load() & kShadowed) bits(page).fetch_and(uint8_t(~kShadowed));
}

// The rights go first; what the GPU alone has comes to the file once no kernel uses it.
void take(uint64_t begin, uint64_t end, PageBits left) {
  uint8_t had = 0;
  for (uint64_t page = begin; page < end; page += kPage)
    if (right(page) > left) had |= set_right(page, left);
  if (had & (kWrite | kComing)) wait_until_sent();
  if (had & kWrite) {
    wait_until_unused(block_of(begin));
    bring_home(begin, end);
  }
  if (left != kNone) return;
  for (uint64_t page = begin; page < end; page += kPage)
    if (bits(page).load() != 0) bits(page).store(0);
}

// The content is in the file.
void give(uint64_t begin, uint64_t end, PageBits wanted, uint8_t content = kComing) {
  for (uint64_t page = begin; page < end; page += kPage)
    if (right(page) == kNone)
      bits(page).store(uint8_t(wanted | content));
    else if (right(page) < wanted)
      set_right(page, wanted);
}

// No launch may use the pages meanwhile; afterwards they have the rights that they had. Calls act(rights).
template <class Act> void withhold(uint64_t begin, uint64_t end, PageBits left, Act act) {
  uint8_t had[kGranule / kPage];
  for (uint64_t page = begin, i = 0; page < end; page += kPage, i++) {
    had[i] = right(page);
    if (had[i] > left) set_right(page, left);
  }
  wait_until_sent();
  wait_until_unused(block_of(begin));
  act(had);
  for (uint64_t page = begin, i = 0; page < end; page += kPage, i++) set_right(page, had[i]);
}

void fetch(uint64_t begin, uint64_t end) {
  withhold(begin, end, kRead, [&](const uint8_t*) { bring_home(begin, end); });
}

void store(uint64_t begin, uint64_t end) {
  withhold(begin, end, kNone, [&](const uint8_t* had) {
    for (uint64_t page = begin, i = 0; page < end; page += kPage, i++)
      bits(page).store(had[i] == kNone ? 0 : kComing);
  });
}

bool gives(MailboxOperation operation) {
  return operation == kRightsRead || operation == kRightsWrite || operation == kZerosRead ||
         operation == kZerosWrite;
}

void change_block(MailboxOperation operation, uint64_t begin, uint64_t end) {
  if (!gives(operation) && !has_pages(block_of(begin))) return; // nothing is there
  const GpuMemory::Use use(*memory, block_of(begin));
  if (gives(operation) || operation == kStore) variables_came(begin, end);
  switch (operation) {
  case kDropEntries:
  case kLendCommon: // never asked for: a GPU maps none of the CPU's frames
  case kLendObject:
  case kEndLend:
    break;
  case kRightsNone:
    return take(begin, end, kNone);
  case kRightsRead:
    take(begin, end, kRead);
    return give(begin, end, kRead);
  case kRightsWrite:
    return give(begin, end, kWrite);
  case kZerosRead:
    return give(begin, end, kRead, kComing | kZeros);
  case kZerosWrite:
    return give(begin, end, kWrite, kComing | kZeros);
  case kFetch:
    return fetch(begin, end);
  case kStore:
    return store(begin, end);
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
  page_bits =
      shared == MAP_FAILED ? nullptr : static_cast<std::atomic<uint8_t>*>(shared); // the keeper looks, too
  tickets =
      reinterpret_cast<std::atomic<uint64_t>*>(reserve_memory(kVramBytes / kGranule * sizeof *tickets, 0));
  if (!page_bits || !tickets) return "no address space for the GPU's page table (a limit? see `ulimit -v`)";
  if (const char* const why = start_keeper(file, page_bits, kAhead | kViewed)) return why;
  try {
    memory = std::make_unique<GpuMemory>(int(channel->gpu), file, in_use, lose_shadow);
  } catch (const CudaError& failed) {
    error = failed.what();
    return error.c_str();
  }
  return nullptr;
}

} // namespace

std::atomic<uint8_t>* page_bits = nullptr;

GpuMemory& gpu() { return *memory; }

uint64_t first_without(uint64_t begin, uint64_t end, bool writes) {
  end = (end + kPage - 1) / kPage * kPage;
  for (uint64_t page = begin / kPage * kPage; page < end;) {
    uint64_t next = first_unlike(page, end, kRight, kWrite);
    if (next == page && !writes) next = first_unlike(page, end, kRight, kRead);
    if (next == page) return page;
    page = next;
  }
  return 0;
}

// Marks the launch's blocks and sees whether all is there; then its content is sent, else the marks are gone
// again.
static Missing mark_and_look(const Slot& slot, uint64_t ticket) {
  const Sending sending;
  each_block(slot, [&](uint64_t block) { ticket_of(block).store(ticket); });
  const Missing missing = first_missing(slot);
  if (missing.address) {
    each_block(slot, [&](uint64_t block) { ticket_of(block).store(0); }); // whoever waits for us need not
    return missing;
  }
  try {
    send_content(slot);
  } catch (const CudaError& error) {
    fail_device(error.what());
  }
  return {};
}

void bring_pages(const Slot& slot, uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch) {
  const uint64_t deadline = now_ns() + kBringLimit;
  for (;;) {
    const Missing missing = mark_and_look(slot, ticket);
    if (!missing.address) return;
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

const char* open_video_memory(int vram, const Userfault&) { return cuda::open_gpu_memory(vram); }
bool is_watched(uint64_t) { return false; }
void forget_entries() {} // a kernel faults nowhere
bool wait_for_mapping(uint64_t) { return false; }

// A GPU maps none of the CPU's frames.
int share_frames(int fd, uint64_t, uint64_t, uint64_t) {
  close(fd);
  return EOPNOTSUPP;
}

int map_video(uint64_t address, uint64_t length) {
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
        if (gives(operation)) return EFAULT;
        continue;
      }
      change_block(operation, at, std::min(end, block_of(at) + kGranule));
    }
  } catch (const CudaError& error) {
    if (error.result == kOutOfMemory && gives(operation)) return ENOMEM;
    if (error.result >= kIllegalAddress && error.result < 800) wait_for_report(); // the context is broken
    fail_device(error.what());
  }
  return 0;
}

} // namespace hmmemu::device
