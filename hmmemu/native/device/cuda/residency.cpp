// Purpose: rights and tickets of pages; the driver's requests to change them (device/process/video_memory.h).
// How a launch gets its pages: bringing.cpp. No lock: the driver has a page locked while it changes its
// rights, and tickets are written by worker 0 alone.
#include "residency.h"

#include "device/process/failure.h"
#include "device/process/video_memory.h"
#include "blocks.h"
#include "content.h"
#include "gpu_memory.h"
#include "host_blocks.h"
#include "in_flight.h"
#include "keeper.h"
#include "page_bits.h"
#include "variables.h"
#include "windows.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

using namespace device;

constexpr uint64_t kReportLimit = 5'000'000'000; // ns

std::atomic<uint64_t>* tickets = nullptr; // for each block, the last launch that uses it
std::unique_ptr<GpuMemory> memory;
std::unique_ptr<HostContent> on_host;
std::unique_ptr<Windows> all_windows;
std::unique_ptr<HostBlocks> hosts;
uint64_t refused_grants = 0; // to worker 0, for want of memory; its own

} // namespace

std::atomic<uint64_t>& ticket_of(uint64_t address) { return tickets[address / kGranule]; }
bool is_own(uint64_t block) { return hosts->is_own(block); }
bool has_lent(uint64_t block) {
  return !each_right(block, block + kGranule, [](uint64_t, uint64_t, uint8_t has) { return has != kLent; });
}
uint64_t grants_refused() { return refused_grants; }

namespace {

bool may_be_running(uint64_t block) { return ticket_of(block).load() > channel->queue.completed.load(); }

// No launch uses the block that was dispatched so far; or one that was about to has withdrawn. Those that are
// dispatched from now on find what has changed before. The driver's own limit ends a wait that is too long.
void wait_until_unused(uint64_t block) {
  uint64_t last = ticket_of(block).load();
  while (last > channel->queue.completed.load()) {
    usleep(20);
    last = std::min(last, ticket_of(block).load());
  }
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
    if (const uint8_t now = right(page); now > left) // the block may hold an older copy of what was lent
      had |= set_right(page, now == kLent ? kNone : left);
  if (had & (kWrite | kComing)) wait_until_sent();
  if (had & kWrite) {
    wait_until_unused(block_of(begin));
    if (is_own(block_of(begin))) bring_home(begin, end);
  }
  if (left != kNone) return;
  for (uint64_t page = begin; page < end; page += kPage)
    if (bits(page).load() != 0) bits(page).store(0);
}

bool lacks_rights(uint64_t begin, uint64_t end) {
  return !each_right(begin, end, [](uint64_t, uint64_t, uint8_t has) { return has != kNone; });
}

// The content is in the file, or in the object (`whose` is kObject). Where the block is not the GPU's own,
// that is what it uses, and what is pinned there may be older frames.
void give(uint64_t begin, uint64_t end, PageBits wanted, uint8_t whose, uint8_t content = kComing) {
  if (!is_own(block_of(begin))) {
    content = 0;
    if (lacks_rights(begin, end)) hosts->spoil(block_of(begin));
  }
  for (uint64_t page = begin; page < end; page += kPage)
    if (right(page) == kNone)
      bits(page).store(uint8_t(wanted | content | whose));
    else if (right(page) < wanted)
      set_right(page, wanted);
}

// The pages are the CPU's frames: their content is there, and not the GPU's.
void lend(uint64_t begin, uint64_t end, uint8_t whose) {
  for (uint64_t page = begin; page < end; page += kPage) bits(page).store(uint8_t(kLent | whose));
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

bool any_writable(uint64_t begin, uint64_t end) {
  return !each_right(begin, end, [](uint64_t, uint64_t, uint8_t has) { return has != kWrite; });
}

// What kernels could write has come home with the right to do so. To wait for those that read takes long.
void fetch(uint64_t begin, uint64_t end) {
  if (!any_writable(begin, end)) return;
  withhold(begin, end, kRead, [&](const uint8_t*) {
    if (is_own(block_of(begin))) bring_home(begin, end);
  });
}

void store(uint64_t begin, uint64_t end) {
  withhold(begin, end, kNone, [&](const uint8_t* had) {
    for (uint64_t page = begin, i = 0; page < end; page += kPage, i++)
      if (had[i] != kLent)
        bits(page).store(uint8_t((bits(page).load() & kObject) |
                                 (had[i] == kNone || !is_own(block_of(begin)) ? 0 : kComing)));
  });
}

MailboxOperation operation_of(MailboxOperation asked) { return MailboxOperation(asked & ~kFromObject); }

bool gives(MailboxOperation operation) {
  return operation == kRightsRead || operation == kRightsWrite || operation == kZerosRead ||
         operation == kZerosWrite || operation == kLendCommon || operation == kLendObject;
}

// Other frames than before are to be where the GPU uses the CPU's memory.
bool changes_frames(MailboxOperation operation) {
  return operation == kRightsNone || operation == kLendCommon || operation == kLendObject ||
         operation == kEndLend;
}

void change_block(MailboxOperation operation, uint8_t whose, uint64_t begin, uint64_t end) {
  const uint64_t block = block_of(begin);
  const std::shared_lock hold(hosts->lock_of(block));
  if (changes_frames(operation)) hosts->spoil(block);
  if (!gives(operation) && !has_pages(block)) return; // nothing is there
  std::optional<GpuMemory::Use> use;
  if (is_own(block)) use.emplace(*memory, block);
  if (gives(operation) || operation == kStore) variables_came(begin, end);
  switch (operation) {
  case kDropEntries:
  case kFromObject:
    break;
  case kLendCommon:
    return lend(begin, end, 0);
  case kLendObject:
    return lend(begin, end, kObject);
  case kEndLend:
  case kRightsNone:
    return take(begin, end, kNone);
  case kRightsRead:
    take(begin, end, kRead);
    return give(begin, end, kRead, whose);
  case kRightsWrite:
    return give(begin, end, kWrite, whose);
  case kZerosRead:
    return give(begin, end, kRead, whose, kComing | kZeros);
  case kZerosWrite:
    return give(begin, end, kWrite, whose, kComing | kZeros);
  case kFetch:
    return fetch(begin, end);
  case kStore:
    return store(begin, end);
  }
}

// 0, or EFAULT: the GPU does not have these addresses. May be done once more, if it fails in between.
int change_blocks(MailboxOperation asked, uint64_t begin, uint64_t end) {
  const MailboxOperation operation = operation_of(asked);
  const uint8_t whose = asked & kFromObject ? kObject : 0;
  for (uint64_t at = begin; at < end; at = block_of(at) + kGranule) {
    if (!memory->reserved(at)) {
      if (gives(operation)) return EFAULT;
      continue;
    }
    const uint64_t to = std::min(end, block_of(at) + kGranule);
    if (operation == kLendCommon || operation == kLendObject) // it may be forbidden
      if (const int error = hosts->try_lend(operation, at, to)) return error;
    change_block(operation, whose, at, to);
  }
  return 0;
}

// From the CPU's memory. Without room it stays there: over the link, then. Lock held, exclusively.
void put_on_gpu(uint64_t block) {
  hosts->unpin(block);
  if (!has_pages(block)) return;
  try {
    const GpuMemory::Use use(*memory, block);
    for (uint64_t page = block; page < block + kGranule; page += kPage)
      if (right(page) != kNone) bits(page).fetch_or(kComing);
  } catch (const CudaError& error) {
    if (error.result != kOutOfMemory) throw;
    hosts->pin(block);
  }
}

// All that the GPU alone has is in the file afterwards, and its memory is gone. Lock held, exclusively.
void leave_gpu(uint64_t block) {
  if (has_pages(block)) {
    const GpuMemory::Use use(*memory, block);
    bring_home(block, block + kGranule);
  }
  memory->surrender(block);
  for (uint64_t page = block; page < block + kGranule; page += kPage)
    if (bits(page).load() & ~(kRight | kObject)) bits(page).fetch_and(kRight | kObject);
}

} // namespace

bool is_placed(uint64_t begin, uint64_t end) {
  const HostBlocks::Place place = hosts->place(begin, end);
  return place == HostBlocks::kHost || (place == HostBlocks::kOwn && !has_lent(block_of(begin)));
}

void put(uint64_t begin, uint64_t end) {
  const uint64_t block = block_of(begin);
  if (is_placed(begin, end) && is_own(block) != has_lent(block)) return;
  wait_until_unused(block);
  const std::lock_guard hold(hosts->lock_of(block));
  const bool lent = has_lent(block);
  if (!lent && !is_own(block)) return put_on_gpu(block);
  if (!lent || hosts->place(begin, end) == HostBlocks::kHost) return;
  if (is_own(block)) leave_gpu(block);
  hosts->pin(block);
}

namespace {

// Another thread hears of it, too, and says which kernel it was.
void wait_for_report() {
  const uint64_t limit = now_ns() + kReportLimit;
  while (channel->queue.completed.load() < channel->queue.produced.load() && now_ns() < limit) usleep(1000);
}

[[noreturn]] void fail_by(const CudaError& error) {
  if (breaks_context(error.result)) wait_for_report(); // the context is broken
  fail_device(error.what());
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
  if (const char* const why = start_keeper(file)) return why;
  try {
    memory = std::make_unique<GpuMemory>(int(channel->gpu), in_use, lose_shadow);
    on_host = std::make_unique<HostContent>(file);
    all_windows = std::make_unique<Windows>(*memory, *on_host);
    hosts = std::make_unique<HostBlocks>(*memory, *on_host, file);
  } catch (const CudaError& failed) {
    error = failed.what();
    return error.c_str();
  }
  return nullptr;
}

} // namespace

std::atomic<uint8_t>* page_bits = nullptr;

GpuMemory& gpu() { return *memory; }
HostContent& host_content() { return *on_host; }
Windows& windows() { return *all_windows; }

bool uses_own_memory(uint64_t address) { return is_own(block_of(address)); }

bool make_own(uint64_t block) {
  const std::lock_guard hold(hosts->lock_of(block));
  if (is_own(block)) return true;
  hosts->spoil(block); // said first, as with rights: a kernel that begins now sees it, or we its ticket
  if (may_be_running(block) || has_lent(block)) return false;
  memory->enter_context();
  try {
    put_on_gpu(block);
  } catch (const CudaError& error) { // its pages have rights, and nothing has their content for kernels
    fail_by(error);
  }
  return is_own(block);
}

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

} // namespace hmmemu::cuda

namespace hmmemu::device {

using namespace cuda;

const char* open_video_memory(int vram, const Userfault&) { return cuda::open_gpu_memory(vram); }
bool is_watched(uint64_t) { return false; }
void forget_entries() {} // a kernel faults nowhere
bool wait_for_mapping(uint64_t) { return false; }

int share_frames(int fd, uint64_t address, uint64_t length, uint64_t offset) {
  try {
    if (length) {
      all_windows->forget(address, address + length);
      keep_frames(fd, address, length, offset);
    }
    const int error = on_host->know(fd, address, length, offset);
    if (error && length) keep_frames(-1, address, length, 0);
    return error;
  } catch (const CudaError& failed) {
    fail_device(failed.what());
  }
}

int map_video(uint64_t address, uint64_t length) {
  try {
    return gpu().reserve(block_of(address), block_of(address + length + kGranule - 1));
  } catch (const CudaError& error) {
    return error.result == kOutOfMemory ? ENOMEM : EIO;
  }
}

// Addresses stay reserved: others may be in the same blocks, and they cost nothing.
int unmap_video(uint64_t address, uint64_t length) {
  const int error = change_table(kRightsNone, address, length);
  return error ? error : share_frames(-1, address, length, 0);
}

// Memory that launches in flight use is nobody's to give up, whoever has the rights; so once they have ended
// it is tried again.
int change_table(MailboxOperation asked, uint64_t address, uint64_t length) {
  for (bool waited = false;; waited = true) try {
      return change_blocks(asked, address, address + length);
    } catch (const CudaError& error) {
      if (error.result == kOutOfMemory && gives(operation_of(asked))) {
        if (waited) return refused_grants += hmmemu_worker_self != nullptr, ENOMEM;
        wait_for_memory();
        continue;
      }
      fail_by(error);
    }
}

} // namespace hmmemu::device
