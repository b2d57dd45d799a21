#include "memory/device_table.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace hmm {

DeviceTable::DeviceTable(int vram, int uffd, DevicePort* port, CpuTable* const* cpu)
    : vram_(vram), cpu_(cpu), signal_(port),
      rights_(uffd < 0 ? static_cast<DeviceRights&>(signal_) : userfault_),
      keep_bytes_(uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE)) / 4) {
  replace_process(uffd, port);
}

DeviceTable::~DeviceTable() = default;

void DeviceTable::replace_process(int uffd, DevicePort* port) {
  port_ = port;
  ended_ = false;
  signal_ = SignalRights(port);
  if (port) uses_objects_ = port->uses_objects();
  if (uffd >= 0) userfault_ = UserfaultRights(uffd, port);
}

// Memory of the device's that is there, too, is of no use now, and may be of some afterwards.
int DeviceTable::lend(Block& block, Pages pages) {
  if (!port_) return ENOMEM;
  left_.set(block, pages, false);
  const int error = port_->lend(pages, block.page(pages.begin).shared_mapping());
  return error ? error : rights_.wake(pages);
}

int DeviceTable::give(Pages pages, bool writable, bool object) {
  int error = rights_.give(pages, writable, object);
  if (error != EEXIST) return error;
  for (uint64_t a = pages.begin; a < pages.end; a += kPage)
    if ((error = rights_.give({a, a + kPage}, writable, object)) && error != EEXIST) return error;
  return rights_.wake(pages);
}

std::byte* DeviceTable::view(Block& block, Pages pages) const {
  return in_object(block, pages)
             ? cpu_[static_cast<unsigned>(block.page(pages.begin).tracker())]->object(block, pages)
             : alias(block, pages);
}

int DeviceTable::put(Block& block, Pages pages, const std::byte* content) const {
  if (in_object(block, pages)) {
    const PageState state = block.page(pages.begin);
    // Merged pages of the program's own objects are there, too, or what others have stored there since.
    if (state.merged() && block.link(pages.begin).mapping) return 0;
    if (cpu_[static_cast<unsigned>(state.tracker())]->is_object(block, pages, content)) return 0;
  }
  std::byte* const at = view(block, pages);
  if (!at) return errno;
  std::memcpy(at, content, pages.bytes());
  return 0;
}

int DeviceTable::end_lend(Pages pages) {
  const int error = port_ ? port_->end_lend(pages) : 0;
  mark_remote(pages, false);
  return error == ESRCH ? 0 : error;
}

int DeviceTable::punch(Block& block, Pages pages) {
  frames_.set(block, pages, false);
  left_.set(block, pages, false);
  if (in_object(block, pages)) return 0;
  return fallocate(vram_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pages.begin, pages.bytes()) ? errno : 0;
}

bool DeviceTable::take_rights(Pages pages) {
  if (rights_.frames_are_rights()) return keeps_frames() && rights_.take(pages) == 0;
  if (int error = rights_.take(pages))
    fatal("rights to device page 0x%lx cannot be taken: errno %d", pages.begin, error);
  return true;
}

int DeviceTable::zap(Block& block, Pages pages) { return leave(block, pages) ? 0 : revoke(block, pages); }

int DeviceTable::revoke(Block& block, Pages pages) {
  return take_rights(pages) && keeps_frames() ? 0 : punch(block, pages);
}

// Said first and asked again afterwards: either who starts something sees it, or we see that it starts.
bool DeviceTable::leave(Block& block, Pages pages) {
  if (!idle() || !keeps_frames()) return false;
  left_.set(block, pages, true);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (idle()) return true;
  left_.set(block, pages, false);
  return false;
}

int DeviceTable::take_left(Block& block, Pages pages) {
  return left_.each_run(block, pages, [&](Pages run, bool left) {
    if (!left) return 0;
    left_.set(block, run, false);
    return revoke(block, run);
  });
}

const std::byte* DeviceTable::take(Block& block, Pages pages, bool writable, Staging& staging) {
  const bool taken = take_rights(pages);
  if (taken && (keeps_frames() || in_object(block, pages))) return view(block, pages);
  int error = writable && !taken ? protect(block, pages) : 0;
  // Not through the alias: to map pages there that are about to go costs more than to copy them.
  if (!error && pread(vram_, staging.data(), pages.bytes(), pages.begin) != ssize_t(pages.bytes()))
    error = EIO;
  if (!error) error = punch(block, pages);
  if (error) fatal("zap of device page 0x%lx failed: errno %d", pages.begin, error);
  return staging.data();
}

int DeviceTable::install(Block& block, Pages pages, const std::byte* content, bool writable) {
  return left_.each_run(block, pages, [&](Pages run, bool left) {
    const std::byte* source = content + (run.begin - pages.begin);
    if (!left) return install_absent(block, run, source, writable);
    if (int error = put(block, run, source)) return error;
    left_.set(block, run, false);
    return writable ? unprotect(block, run) : 0;
  });
}

int DeviceTable::install_absent(Block& block, Pages pages, const std::byte* content, bool writable) {
  return frames_.each_run(block, pages, [&](Pages run, bool present) {
    const std::byte* source = content + (run.begin - pages.begin);
    if (present || !rights_.frames_are_rights()) {
      if (int error = put(block, run, source)) return error;
      frames_.set(block, run, true);
      return rights_.give(run, writable, in_object(block, run));
    }
    int error = rights_.copy(run, source, writable);
    if (!error) frames_.set(block, run, true);
    return error;
  });
}

int DeviceTable::update(Block& block, Pages pages, const std::byte* content) {
  if (int error = put(block, pages, content)) return error;
  return end_write(block, pages, false);
}

int DeviceTable::zero(Block& block, Pages pages, Access, bool writable) {
  return frames_.each_run(block, pages, [&](Pages run, bool present) {
    if (in_object(block, run)) { // zeros, or what another process has put there
      frames_.set(block, run, true);
      return rights_.give_zeros(run, writable, true);
    }
    if (present || !writable || !rights_.frames_are_rights()) { // a userfaultfd's zeros are writable
      if (present || rights_.frames_are_rights()) std::memset(alias(block, run), 0, run.bytes());
      frames_.set(block, run, true); // a hole of the file, if nothing else, which reads as zeros
      return rights_.give_zeros(run, writable, false);
    }
    int error = rights_.zero(run);
    if (!error) frames_.set(block, run, true);
    return error;
  });
}

// A protection that stays behind where a page was would keep it from being refused.
int DeviceTable::release(Block& block, Pages pages) {
  const int error = frames_.each_run(block, pages, [&](Pages run, bool present) {
    if (!present) return 0;
    if (!rights_.frames_are_rights()) take_rights(run);
    return punch(block, run);
  });
  if (!error && rights_.frames_are_rights()) rights_.unprotect(pages, false);
  return error;
}

} // namespace hmm
