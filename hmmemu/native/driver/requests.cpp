// Driver: what Python threads ask for, of ranges that are managed already: rights (prefetches, launches),
// copies as a device sees them, no content at all, what the directory says.
//
// Faults get what they need one page and its neighbours at a time; here whole ranges go block by block, in
// several threads where there is enough to do (driver/parallel.h).
//
// INVARIANT: memory of the caller, which may be managed itself, is touched with nothing locked.
// LOCKS: the pages of one block at a time.
#include "driver/driver.h"
#include "driver/parallel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hmm {

int Driver::access(Pages pages, Processor p, Access access, Cause cause) {
  if (crowded()) pages = {block_down(pages.begin), block_down(pages.end + kBlock - 1)};
  const auto done = [&](Pages part) { return granted(part, p, access); };
  return in_parallel(without_ends(pages, done), [&](Pages part) {
    if (done(part)) return 0;
    return until_room([&] {
      return each_block(part, [&](Block& block, Pages inner) {
        if (p != kCpu) // it asks for pages, not to look at the CPU's
          if (int error = recall_all(block, inner)) return error;
        return access_locked(block, inner, {p, access, cause});
      });
    });
  });
}

// Whether `p` has the right already; part of a block.
bool Driver::granted(Pages part, Processor p, Access access) {
  const auto has = [=](uint64_t all) {
    const Hold hold = PageState(all).hold(p); // not Remote: who asks for pages wants them there
    return hold == Hold::Exclusive || (access == Access::Read && hold == Hold::Shared);
  };
  if (const uint64_t outline = directory_.outline(part.begin)) return has(outline);
  Block* block = directory_.find(part.begin);
  if (!block) return true;
  std::lock_guard guard(block->lock);
  const auto [any, all] = block->summary();
  return has(all) && !PageState(any).remote() && !block->locked;
}

void Driver::mark_viewed(Pages pages, bool viewed) {
  each_block(pages, [&](Block& block, Pages part) {
    change(block, part, [viewed](PageState& state) { state.set_viewed(viewed && state.managed()); });
    return 0;
  });
}

void Driver::discard(Pages pages) {
  const int error = each_block(pages, [&](Block& block, Pages part) {
    const bool inside = part.begin >= pages.begin && part.end <= pages.end; // else others use the huge page
    return inside ? release_everywhere(block, part) : 0;
  });
  if (error == ENOENT || error == ENXIO || error == EFAULT)
    throw Failure(FailureKind::Range, "cannot discard: a part of the memory is not mapped any more");
  if (error) throw Failure(FailureKind::Error, std::string("discard failed: ") + strerror(error));
}

int Driver::transfer(Processor p, uint64_t address, uint64_t bytes, void* data, Access access) {
  Mapping buffer(kStagingBytes); // `data` may be managed itself: never touched under a lock
  auto* user = static_cast<std::byte*>(data);
  uint64_t most = kStagingBytes; // less where the range has two owners of one page
  while (bytes) {
    const uint64_t room = kStagingBytes - (address & (kPage - 1));
    const uint64_t to_block_end = block_down(address) + kBlock - address;
    const uint64_t n = std::min({bytes, room, to_block_end, most});
    if (access == Access::Write) std::memcpy(buffer.as<void>(), user, n);
    const Pages pages = Pages::covering(address, n);
    int error = until_room([&] {
      return each_block(pages, [&](Block& block, Pages part) {
        for (uint64_t a = part.begin; a < part.end; a += kPage)
          if (!block.page(a).managed()) return EFAULT;
        if (int failed = recall_files(block, part)) return failed;
        if (int failed = access_locked(block, part, {p, access, Cause::Fault})) return failed;
        return copy_locked(block, part, p, access, address, n, buffer.as<std::byte>());
      });
    });
    if (!error && !directory_.find(address)) error = EFAULT;
    if (error == ERANGE && pages.count() > 1) {
      most = page_down(address) + kPage - address;
      continue;
    }
    if (error) return error;
    if (access == Access::Read) std::memcpy(user, buffer.as<void>(), n);
    address += n, user += n, bytes -= n, most = kStagingBytes;
  }
  return 0;
}

// Between `buffer` and the pages, which `p` may access that way. ERANGE: one took another's rights away.
int Driver::copy_locked(Block& block, Pages pages, Processor p, Access access, uint64_t address,
                        uint64_t bytes, std::byte* buffer) {
  StagingPool::Use staging(staging_);
  return each_run(block, pages, [&](Pages run) {
    if (block.page(run.begin).hold(p) == Hold::Invalid) return ERANGE;
    const bool remote = block.page(run.begin).hold(p) == Hold::Remote;
    const bool writes = access == Access::Write, on_device = p != kCpu && !remote;
    if (writes && on_device)
      if (int error = devices_[p]->begin_write(block, run)) return error;
    const std::byte* frames =
        remote ? lent_frames(block, run, *staging) : this->frames(p, block, run, *staging);
    if (!frames) return ENXIO;
    const uint64_t begin = std::max(run.begin, address), end = std::min(run.end, address + bytes);
    auto* at = const_cast<std::byte*>(frames) + (begin - run.begin);
    if (!writes) {
      std::memcpy(buffer + (begin - address), at, end - begin);
      return 0;
    }
    std::memcpy(at, buffer + (begin - address), end - begin);
    return on_device ? devices_[p]->end_write(block, run, true) : 0;
  });
}

void Driver::snapshot(Pages pages, uint64_t* words) {
  Mapping buffer(page_up(kPagesPerBlock * sizeof(uint64_t)));
  for (uint64_t a = pages.begin; a < pages.end;) {
    const Pages part{a, std::min(pages.end, block_down(a) + kBlock)};
    std::memset(buffer.as<void>(), 0, part.count() * sizeof(uint64_t));
    // Locked first: who was served a moment ago must find it said here.
    each_block(part, [&](Block& block, Pages) {
      std::memcpy(buffer.as<void>(), &block.page(part.begin), part.count() * sizeof(uint64_t));
      return 0;
    });
    std::memcpy(words + (a - pages.begin) / kPage, buffer.as<void>(), part.count() * sizeof(uint64_t));
    a = part.end;
  }
}

} // namespace hmm
