// Driver, second half: which memory is managed, by which devices it is seen, and how it all ends.
// Everything here runs on Python threads, under the range lock (base/lock.h), and takes block locks one at a
// time.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>
#include <mutex>

namespace hmm {
namespace {

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

// A page that nobody touched yet is missing, and the driver's own read of it would wait for the driver.
void populate(Pages pages) {
  if (madvise(reinterpret_cast<void*>(pages.begin), pages.bytes(), MADV_POPULATE_READ) == 0) return;
  if (errno != EINVAL) throw_errno(FailureKind::Range, "the memory cannot be read");
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) (void)*reinterpret_cast<volatile char*>(a);
}

// Where arenas go: far from where the kernel puts anything in this process, and between the places that
// device processes use in their first two address layouts (device/client/spawn.cpp).
constexpr uint64_t kArenasBegin = 0x160000000000, kArenasEnd = 0x290000000000;

} // namespace

std::vector<Pages> Driver::runs(Pages pages, unsigned owners) const {
  std::vector<Pages> found;
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) {
    Block* block = directory_.find(a);
    if ((block ? block->page(a).owners() : 0) != owners) continue;
    if (!found.empty() && found.back().end == a)
      found.back().end += kPage;
    else
      found.push_back({a, a + kPage});
  }
  return found;
}

Pages Driver::make_arena(uint64_t bytes) {
  std::lock_guard guard(ranges_);
  for (; bytes >= kBlock; bytes = block_down(bytes / 2)) {
    for (uint64_t hint = kArenasBegin; hint + bytes <= kArenasEnd; hint += bytes) {
      void* at = mmap(reinterpret_cast<void*>(hint), bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
      if (at == MAP_FAILED) continue;
      arena_ = {hint, hint + bytes};
      if (int error = uffd_.add(arena_))
        throw Failure(FailureKind::Unsupported,
                      std::string("userfaultfd refuses the arena: ") + strerror(error));
      return arena_;
    }
  }
  throw Failure(FailureKind::OutOfMemory, "no room for an arena in the address space (see `ulimit -v`)");
}

void Driver::allocate(Pages pages) {
  std::lock_guard guard(ranges_);
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) directory_.make(a);
  each_block(pages, [&](Block& block, Pages part) {
    for (uint64_t a = part.begin; a < part.end; a += kPage) block.page(a).add_owner();
    if (part.begin == pages.begin) block.page(part.begin).set_start(true);
    return 0;
  });
}

void Driver::free(Pages pages) {
  std::lock_guard guard(ranges_);
  if (closed_) return;
  each_block(pages, [&](Block& block, Pages part) {
    release_everywhere(block, part);
    for (uint64_t a = part.begin; a < part.end; a += kPage) block.page(a) = PageState();
    return 0;
  });
}

std::vector<Pages> Driver::add_range(Pages pages, bool shared) {
  std::lock_guard guard(ranges_);
  std::vector<Pages> fresh = runs(pages, 0);
  for (size_t i = 0; i < fresh.size(); ++i) {
    populate(fresh[i]);
    int error = uffd_.add(fresh[i]);
    if (!error) continue;
    while (i-- > 0) uffd_.remove(fresh[i]); // as if nothing had happened
    if (error == EINVAL)
      throw Failure(FailureKind::Unsupported,
                    "this kind of memory (a regular file's pages, or huge pages) cannot be "
                    "watched by userfaultfd; use hmm.asarray(x), which copies it");
    throw Failure(FailureKind::Unsupported,
                  std::string("userfaultfd refuses this memory: ") + strerror(error));
  }
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) directory_.make(a);
  each_block(pages, [&](Block& block, Pages part) {
    for (uint64_t a = part.begin; a < part.end; a += kPage) {
      PageState& state = block.page(a);
      if (!state.managed()) {
        state = PageState();
        state.set(kCpu, Hold::Exclusive);
        state.set_shared_mapping(shared);
      }
      state.add_owner();
    }
    if (part.begin == pages.begin) block.page(part.begin).set_start(true);
    return 0;
  });
  return fresh;
}

std::vector<Pages> Driver::drop_range(Pages pages) {
  std::lock_guard guard(ranges_);
  if (closed_) return {};
  std::vector<Pages> last = runs(pages, 1);
  each_block(pages, [&](Block& block, Pages part) {
    bring_home(block, part);
    host_.free_parked(block, part);
    for (Processor q = 1; q < processors(); ++q) table(q).release(block, part);
    for (uint64_t a = part.begin; a < part.end; a += kPage) {
      PageState& state = block.page(a);
      state.drop_owner();
      if (!state.managed()) state = PageState();
    }
    return 0;
  });
  for (Pages run : last) uffd_.remove(run);
  return last;
}

void Driver::bring_all_home() {
  std::lock_guard guard(ranges_);
  if (closed_.exchange(true)) return;
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    each_block({block.address, block.address + kBlock}, [&](Block& b, Pages all) {
      bring_home(b, all);
      return 0;
    });
  }
}

// The kernel drops every registration with the descriptor, and wakes whoever waits.
void Driver::release() { uffd_ = Userfaultfd(); }

Processor Driver::attach(int vram, int uffd, DeviceTable::Shootdown shootdown, void* context) {
  std::lock_guard guard(ranges_);
  const unsigned p = processors();
  if (p == kMaxProcessors)
    throw Failure(FailureKind::Unsupported,
                  "at most " + std::to_string(kMaxProcessors - 1) + " devices in one address space");
  devices_[p].emplace(vram, uffd, shootdown, context);
  tables_[p] = &*devices_[p];
  processors_.store(p + 1, std::memory_order_release);
  return p;
}

void Driver::evacuate(Processor p) {
  std::lock_guard guard(ranges_);
  if (closed_) return;
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    each_block({block.address, block.address + kBlock}, [&](Block& b, Pages all) {
      for (uint64_t a = all.begin; a < all.end; a += kPage)
        if (b.page(a).hold(p) != Hold::Invalid) bring_home(b, {a, a + kPage});
      return 0;
    });
  }
}

void Driver::replace_process(Processor p, int uffd, void* context) {
  std::lock_guard guard(ranges_);
  devices_[p]->replace_process(uffd, context);
}

// Fork. The child gets the pages as they are in this process, without its userfaultfd: a page that is away,
// or write-protected, would be wrong there. So everything comes home first, writable, and nothing can leave
// until the child exists, because every block stays locked.
void Driver::before_fork() {
  ranges_.lock();
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    block.lock.lock();
    if (!closed_) bring_home(block, {block.address, block.address + kBlock});
  }
}

void Driver::after_fork_in_parent() {
  for (uint32_t slot = directory_.size(); slot-- > 0;) directory_.at(slot).lock.unlock();
  ranges_.unlock();
}

void Driver::after_fork_in_child() {
  // The descriptors speak for the parent's memory: closing them here leaves the parent's registrations alone.
  closed_ = true;
  uffd_ = Userfaultfd();
  for (uint32_t slot = directory_.size(); slot-- > 0;) directory_.at(slot).lock.reset();
  ranges_.reset();
}

} // namespace hmm
