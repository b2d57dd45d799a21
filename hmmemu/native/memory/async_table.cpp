#include "memory/async_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <sys/mman.h>

namespace hmm {
namespace {

#ifndef MREMAP_DONTUNMAP // Linux 5.7
#define MREMAP_DONTUNMAP 4
#endif

// Takes pages of one mapping away, entries and frames, and copies them to `to`. Later accesses find nothing,
// and the range stays registered. ENOMEM, EFAULT: several mappings, or none.
int detach_and_copy(Pages pages, std::byte* to) {
  void* apart = mremap(reinterpret_cast<void*>(pages.begin), pages.bytes(), pages.bytes(),
                       MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  if (apart == MAP_FAILED) return errno;
  std::memcpy(to, apart, pages.bytes());
  return munmap(apart, pages.bytes()) ? errno : 0;
}

} // namespace

AsyncTable::AsyncTable(const Userfaultfd& uffd, AliasMap& aliases, const Directory& directory)
    : HostTable(uffd, aliases), directory_(directory), pagemap_(Pagemap::open()) {}

// Older finds are of no interest: the content is read after this. Forgotten first, so that nothing newer is.
int AsyncTable::protect(Block& block, Pages pages) {
  {
    std::lock_guard guard(scanning_);
    take_found(block, block.set_of(pages));
  }
  return HostTable::protect(block, pages);
}

int AsyncTable::written(Block& block, Pages pages, PageSet& found) {
  std::lock_guard guard(scanning_);
  if (int error = scan_locked(pages)) return error;
  tell();
  found = take_found(block, block.set_of(pages));
  return 0;
}

int AsyncTable::scan(Pages pages) {
  while (!pages.empty()) {
    const Pages part{pages.begin, std::min(pages.end, pages.begin + kMostScanned)};
    std::lock_guard guard(scanning_);
    if (int error = scan_locked(part)) return error;
    pages.begin = part.end;
  }
  return 0;
}

// The scan counts pages that are not there as written. Those were dropped by the program, and are zeros now.
int AsyncTable::scan_locked(Pages pages) {
  return pagemap_.take_written(pages, [&](Pages run) { note(run); });
}

void AsyncTable::note(Pages run) {
  while (!run.empty()) {
    const uint64_t end = std::min(run.end, block_down(run.begin) + kBlock);
    if (const Block* block = directory_.find(run.begin)) {
      const PageSet set = block->set_of({run.begin, end});
      found_pages_.fetch_add(set.count(), std::memory_order_relaxed); // first: never less than there are
      for (unsigned i = 0; i < PageSet::kWords; ++i) {
        if (!set.word(i)) continue;
        const uint64_t old = word(*block, i).fetch_or(set.word(i), std::memory_order_release);
        if (old & set.word(i)) found_pages_.fetch_sub(std::popcount(old & set.word(i)));
      }
    }
    run.begin = end;
  }
}

bool AsyncTable::found(const Block& block) const {
  uint64_t any = 0;
  for (unsigned i = 0; i < PageSet::kWords; ++i) any |= word(block, i).load(std::memory_order_acquire);
  return any != 0;
}

void AsyncTable::fetch(const Block& block) const {
  __builtin_prefetch(&block);
  for (unsigned i = 0; i < PageSet::kWords; ++i)
    if (const uint64_t found = word(block, i).load(std::memory_order_relaxed)) {
      const unsigned page = i * 64 + std::countr_zero(found);
      __builtin_prefetch(&block.pages[page]);
      __builtin_prefetch(&block.owner[page]);
      return;
    }
}

PageSet AsyncTable::peek(const Block& block, Pages pages) const {
  PageSet set = block.set_of(pages);
  for (unsigned i = 0; i < PageSet::kWords; ++i)
    set.word(i) &= word(block, i).load(std::memory_order_acquire);
  return set;
}

PageSet AsyncTable::take_found(const Block& block, const PageSet& pages) {
  PageSet taken;
  for (unsigned i = 0; i < PageSet::kWords; ++i)
    if (word(block, i).load(std::memory_order_relaxed) & pages.word(i))
      taken.word(i) = word(block, i).fetch_and(~pages.word(i), std::memory_order_acq_rel) & pages.word(i);
  found_pages_.fetch_sub(taken.count(), std::memory_order_release);
  return taken;
}

// By halves where the pages lie in several mappings (huge-page advice on a part is enough for that).
int AsyncTable::take_by_copy(Block& block, Pages pages, std::byte* to) {
  if (!is_mapped(pages)) return ENOENT;
  const int error = detach_and_copy(pages, to);
  if (error != EFAULT || pages.count() < 2) return error;
  const uint64_t middle = pages.begin + pages.count() / 2 * kPage;
  const int first = take_by_copy(block, {pages.begin, middle}, to);
  return first ? first : take_by_copy(block, {middle, pages.end}, to + (middle - pages.begin));
}

} // namespace hmm
