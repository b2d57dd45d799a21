// Driver: pages of files, whose content has other writers and an end that moves.
//
// The kernel's page cache is the truth of a file; the CPU's frames are the page cache. So where the file's
// end or content moved, the copies of devices go and the CPU has the page: `lose`. A page behind the
// end of its file cannot be read by the driver (ENXIO) nor written (EIO), and stays mapped: the CPU's own
// access to it is a SIGBUS, upon which a private page of zeros takes its place, is noted, and makes way when
// the file grows again.
//
// INVARIANT: a page in `hidden_` shows zeros to the CPU instead of its file.
// Locks: the pages'. `beyond_end` runs in a signal handler: it takes none, and allocates nothing.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmm {
namespace {

constexpr unsigned kMostTruncations = 64;

struct Note {
  std::atomic<uint64_t> address{0};
  std::atomic<uint64_t> thread{0};
};
Note notes[kMostTruncations]; // newest wins when nobody reads them
std::atomic<unsigned> next_note{0};
std::atomic<void (*)()> listener{nullptr};

uint64_t sum_of(const std::byte* page) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < kPage; i += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, page + i, sizeof word);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    sum ^= sum >> 29;
  }
  return sum;
}

// What of [offset, offset + bytes) lies in a mapping that shows `mapped_bytes` of the file from `mapped_from`
// on.
struct Overlap {
  uint64_t begin, end; // offsets in the file
};
Overlap overlap(const FileMapping& file, uint64_t offset, uint64_t bytes) {
  const uint64_t begin = std::max(offset, file.offset),
                 end = std::min(offset + bytes, file.offset + file.pages.bytes());
  return {begin, std::max(begin, end)};
}

int write_all(int fd, const std::byte* data, uint64_t bytes, uint64_t offset) {
  while (bytes) {
    const ssize_t n = pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    data += n, offset += n, bytes -= n;
  }
  return 0;
}

} // namespace

// Other owners of the pages are not looked at: the caller does.
void Driver::lose(Block& block, Pages run) {
  if (int error = unmerge(block, run))
    fatal("merged file pages at 0x%lx cannot be broken: %s", run.begin, strerror(error));
  if (int error = recall_all(block, run))
    fatal("file pages at 0x%lx cannot be taken from a device: %s", run.begin, strerror(error));
  PageState next = block.page(run.begin);
  for (Processor q = 1; q < processors(); ++q) {
    if (next.hold(q) == Hold::Invalid) continue;
    if (int error = tables_[q]->release(block, run))
      fatal("copies of file pages at 0x%lx cannot be dropped: %s", run.begin, strerror(error));
    counters_.processor[q].invalidated_pages.add(run.count());
  }
  Hold hold = Hold::Exclusive;
  if (next.several() && next.hold(kCpu) != Hold::Exclusive) { // other owners may have the page, too
    hold = Hold::Shared;
    table(kCpu, next).regrant(block, run, false);
  } else if (next.hold(kCpu) != Hold::Exclusive) {
    table(kCpu, next).unprotect(block, run);
  }
  change(block, run, [hold](PageState& state) {
    state.set_holds(0);
    state.set(kCpu, hold);
    if (!state.several()) state.set_watched(false);
  });
}

// A device must not get the zeros that the CPU is shown.
bool Driver::hides(Block& block, Pages run) const {
  if (!block.page(run.begin).kind().file) return false;
  return hidden_.each_run(block, run, [](Pages, bool hidden) { return hidden ? 1 : 0; }) != 0;
}

bool Driver::is_lost(PageState state, int error) {
  return state.kind().file && (error == ENXIO || error == EIO);
}

void Driver::lose_behind(Pages pages) {
  each_block(pages, [&](Block& block, Pages part) {
    return each_run(block, part, [&](Pages run) {
      if (!block.page(run.begin).kind().file) return 0;
      return with_owners(block, run, [&](Pages piece, OtherOwners& others) {
        lose(block, piece);
        for (OtherOwners::Run& other : others)
          each_run(*other.block, other.pages, [&](Pages theirs) { return lose(*other.block, theirs), 0; });
        return 0;
      });
    });
  });
}

// ------------------------------------------------------------------------------ content that others change

// The CPU gives up its copy to `p`, which may change it.
void Driver::remember(Block& block, Pages run, Processor p, const std::byte* content) {
  const PageState state = block.page(run.begin);
  if (p == kCpu || !state.kind().file || !state.shared_mapping() || state.hold(kCpu) == Hold::Invalid) return;
  for (uint64_t a = run.begin; a < run.end; a += kPage) sum(block, a) = sum_of(content + (a - run.begin));
}

bool Driver::is_as_remembered(Block& block, Pages page, Processor p) {
  StagingPool::Use staging(staging_);
  const std::byte* now = table(p, block.page(page.begin)).frames(block, page, *staging);
  return now && sum_of(now) == sum(block, page.begin);
}

uint64_t Driver::reload(Pages pages) {
  uint64_t lost = 0;
  each_block(pages, [&](Block& block, Pages part) {
    return each_run(block, part, [&](Pages run) {
      const PageState state = block.page(run.begin);
      if (!state.managed() || !state.kind().file || !state.shared_mapping()) return 0;
      if (state.hold(kCpu) == Hold::Exclusive || state.remote()) return 0; // what is used is the file
      if (state.merged()) {
        reload_merged(block, run);
      } else if (state.hold(kCpu) == Hold::Shared) {
        // Late: the writer was none of ours.
        if (int error = state.watched() ? notify_all(block, run) : 0; error == EDEADLK) return error;
        lose(block, run);
      } else {
        return reload_away(block, run, lost);
      }
      return 0;
    });
  });
  return lost;
}

// Pages that only devices hold: the file may not be what it was when they took them. If they wrote too, the
// page has two writers: counted in `lost`. Pages whose other owners have them are none of those.
int Driver::reload_away(Block& block, Pages run, uint64_t& lost) {
  if (block.page(run.begin).untouched()) return 0;
  for (uint64_t a = run.begin; a < run.end; a += kPage) {
    const Pages page{a, a + kPage};
    if (is_as_remembered(block, page, kCpu)) continue;
    Processor holder = 1;
    while (holder + 1u < processors() && block.page(a).hold(holder) == Hold::Invalid) ++holder;
    const bool both = !is_as_remembered(block, page, holder);
    if (int error = block.page(a).watched() ? notify_all(block, page) : 0; error == EDEADLK) return error;
    lost += both;
    lose(block, page);
  }
  return 0;
}

// ------------------------------------------------------------------------------------------ system calls

int Driver::write_file(int fd, const FileMapping& file, uint64_t offset, const void* data, uint64_t bytes) {
  Mapping buffer(kStagingBytes); // `data` may be managed itself: never touched while pages are locked
  auto* user = static_cast<const std::byte*>(data);
  while (bytes) {
    const auto [begin, end] = overlap(file, offset, bytes);
    const uint64_t address = file.pages.begin + (begin - file.offset);
    uint64_t n = std::min(bytes, kStagingBytes);
    const bool inside = begin < end && begin == offset;
    if (inside) n = std::min({n, end - begin, block_down(address) + kBlock - address});
    if (!inside && begin < end) n = std::min(n, begin - offset); // what lies before the mapping
    std::memcpy(buffer.as<void>(), user, n);
    const auto write = [&] { return write_all(fd, buffer.as<std::byte>(), n, offset); };
    const int error = inside ? each_block(Pages::covering(address, n),
                                          [&](Block& block, Pages part) {
                                            if (int failed = claim(block, part)) return failed;
                                            return write();
                                          })
                             : write();
    if (error) return error;
    user += n, offset += n, bytes -= n;
  }
  return 0;
}

// For a write that is no store: the CPU alone has the pages, and their protectors know. A page behind the end
// is about to become one of the file again.
int Driver::claim(Block& block, Pages pages) {
  return each_run(block, pages, [&](Pages run) {
    const int error = access_locked(block, run, {kCpu, Access::Write, Cause::Fault});
    if (error && !is_lost(block.page(run.begin), error)) return error;
    if (error) lose(block, run);
    return 0;
  });
}

int Driver::truncate_file(int fd, const FileMapping& file, uint64_t bytes) {
  const uint64_t end = file.offset + file.pages.bytes();
  if (bytes >= end || file.pages.empty()) return ftruncate(fd, static_cast<off_t>(bytes)) ? errno : 0;
  const uint64_t kept = std::max(bytes, file.offset) - file.offset;
  const Pages changed{page_down(file.pages.begin + kept), file.pages.end};
  const Pages first{changed.begin, changed.begin + kPage};
  int error = each_block(changed, [&](Block& block, Pages part) { return claim(block, part); });
  if (error) return error;
  // The page of the new end keeps a part: nobody may copy it in between.
  error = each_block(first, [&](Block& block, Pages part) {
    if (int failed = claim(block, part)) return failed;
    return ftruncate(fd, static_cast<off_t>(bytes)) ? errno : 0;
  });
  if (!error) lose_behind({first.end, changed.end}); // what devices took meanwhile
  return error;
}

// -------------------------------------------------------------------------------------- behind the end

bool Driver::beyond_end(const Fault& fault) {
  Block* block = directory_.find(fault.address);
  if (!block) return false;
  const PageState state = block->page(fault.address);
  if (!state.managed() || !state.kind().file) return false;
  const int right = state.read_only() ? PROT_READ : PROT_READ | PROT_WRITE;
  const long at =
      syscall(SYS_mmap, fault.address, kPage, right, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (at != static_cast<long>(fault.address)) return false;
  hidden_.set(*block, {fault.address, fault.address + kPage}, true);
  Note& note = notes[next_note.fetch_add(1) % kMostTruncations];
  note.thread.store(pthread_self());
  note.address.store(fault.address);
  if (auto* tell = listener.load()) tell();
  return true;
}

void Driver::on_beyond_end(void (*tell)()) { listener = tell; }

std::vector<std::pair<uint64_t, uint64_t>> Driver::take_beyond_end() {
  std::vector<std::pair<uint64_t, uint64_t>> found;
  for (Note& note : notes)
    if (const uint64_t address = note.address.exchange(0)) found.push_back({address, note.thread.load()});
  return found;
}

int Driver::show_again(int fd, const FileMapping& file, uint64_t bytes) {
  if (!hidden_.frames() || bytes <= file.offset) return 0;
  const Pages there{file.pages.begin,
                    std::min(file.pages.end, page_up(file.pages.begin + (bytes - file.offset)))};
  return each_block(there, [&](Block& block, Pages part) {
    return hidden_.each_run(block, part, [&](Pages run, bool hidden) {
      if (!hidden) return 0;
      const PageState state = block.page(run.begin);
      const int right = state.read_only() || state.several() ? PROT_READ : PROT_READ | PROT_WRITE;
      const int sharing = state.shared_mapping() ? MAP_SHARED : MAP_PRIVATE;
      const auto offset = static_cast<off_t>(file.offset + (run.begin - file.pages.begin));
      if (mmap(reinterpret_cast<void*>(run.begin), run.bytes(), right, sharing | MAP_FIXED, fd, offset) ==
          MAP_FAILED)
        return errno;
      hidden_.set(block, run, false);
      return each_run(block, run, [&](Pages like) {
        lose(block, like); // the new mapping is writable, so nobody else has the page, or it has other owners
        return 0;
      });
    });
  });
}

} // namespace hmm
