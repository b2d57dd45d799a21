#include "memory/device_table.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace hmm {

// From this many pages on, asking the device process (one round trip, about 6 us) is cheaper than freeing
// frames that the next move allocates again (about 2 us a page).
static constexpr uint64_t kShootdownPages = 8;

static int own(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }

DeviceTable::DeviceTable(int vram, int uffd, Shootdown shootdown, void* context)
    : vram_(vram), uffd_(own(uffd)), shootdown_(shootdown), context_(context),
      keep_bytes_(uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE)) / 4),
      alias_(uint64_t{Directory::kMostBlocks} * kBlock, true), alias_made_(Directory::kMostBlocks, true) {
  mprotect(alias_.as<void>(), alias_.bytes(), PROT_NONE);
}

DeviceTable::~DeviceTable() = default;

void DeviceTable::replace_process(int uffd, void* context) {
  uffd_ = Userfaultfd(own(uffd));
  context_ = context;
}

std::byte* DeviceTable::alias(Block& block, Pages pages) {
  std::byte* slot = alias_.as<std::byte>() + block.slot * kBlock;
  auto& made = alias_made_.as<std::atomic<uint8_t>>()[block.slot]; // twice at once does no harm
  if (!made.load(std::memory_order_acquire)) {
    // Neighbouring blocks have neighbouring slots, so the kernel merges their mappings into one.
    void* at = mmap(slot, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, vram_,
                    block.address);
    if (at == MAP_FAILED) fatal("cannot map device memory of block 0x%lx: errno %d", block.address, errno);
    madvise(at, kBlock, MADV_DONTFORK);
    made.store(1, std::memory_order_release);
  }
  return slot + (pages.begin - block.address);
}

int DeviceTable::punch(Block& block, Pages pages) {
  frames_.set(block, pages, false);
  return fallocate(vram_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pages.begin, pages.bytes()) ? errno : 0;
}

bool DeviceTable::zap_keeping_frames(Pages pages) {
  return pages.count() >= kShootdownPages && frame_bytes() <= keep_bytes_ && shootdown_ &&
         shootdown_(context_, pages);
}

int DeviceTable::zap(Block& block, Pages pages) {
  return zap_keeping_frames(pages) ? 0 : punch(block, pages);
}

const std::byte* DeviceTable::take(Block& block, Pages pages, bool writable, Staging& staging) {
  if (zap_keeping_frames(pages)) return alias(block, pages);
  int error = writable ? protect(block, pages) : 0;
  // Not through the alias: to map pages there that are about to go costs more than to copy them.
  if (!error && pread(vram_, staging.data(), pages.bytes(), pages.begin) != ssize_t(pages.bytes()))
    error = EIO;
  if (!error) error = punch(block, pages);
  if (error) fatal("zap of device page 0x%lx failed: errno %d", pages.begin, error);
  return staging.data();
}

int DeviceTable::install(Block& block, Pages pages, const std::byte* content, bool writable) {
  return frames_.each_run(block, pages, [&](Pages run, bool present) {
    const std::byte* source = content + (run.begin - pages.begin);
    if (present) {
      std::memcpy(alias(block, run), source, run.bytes());
      return uffd_.map_frames(run, writable);
    }
    int error = uffd_.copy(run, source, writable);
    if (!error) frames_.set(block, run, true);
    return error;
  });
}

int DeviceTable::update(Block& block, Pages pages, const std::byte* content) {
  std::memcpy(alias(block, pages), content, pages.bytes());
  return 0;
}

int DeviceTable::zero(Block& block, Pages pages, Access, bool writable) {
  return frames_.each_run(block, pages, [&](Pages run, bool present) {
    if (present || !writable) { // uffd_.zero maps them writable
      std::memset(alias(block, run), 0, run.bytes());
      frames_.set(block, run, true);
      return uffd_.map_frames(run, writable);
    }
    int error = uffd_.zero(run);
    if (!error) frames_.set(block, run, true);
    return error;
  });
}

int DeviceTable::release(Block& block, Pages pages) {
  return frames_.each_run(block, pages,
                          [&](Pages run, bool present) { return present ? punch(block, run) : 0; });
}

} // namespace hmm
