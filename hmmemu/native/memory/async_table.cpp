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

// Calls act(index of a word of 64 pages, mask) for all pages, which lie in one block.
template <class Act> void each_word(const Block& block, Pages pages, Act act) {
  uint64_t page = (pages.begin - block.address) / kPage;
  const uint64_t end = (pages.end - block.address) / kPage;
  while (page < end) {
    const uint64_t count = std::min(64 - page % 64, end - page);
    act(static_cast<unsigned>(page / 64), (~uint64_t{0} >> (64 - count)) << (page % 64));
    page += count;
  }
}

void add_bits(PageSet& set, unsigned index, uint64_t bits) {
  for (; bits; bits &= bits - 1) set.set(index * 64 + static_cast<unsigned>(std::countr_zero(bits)));
}

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
    take_found(block, pages);
  }
  return HostTable::protect(block, pages);
}

int AsyncTable::written(Block& block, Pages pages, PageSet& found) {
  std::lock_guard guard(scanning_);
  if (int error = scan_locked(pages)) return error;
  found = take_found(block, pages);
  telling_.fetch_add(1, std::memory_order_relaxed);
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

// The scan counts pages that are not there as written. Those were dropped by the program: nothing to read.
int AsyncTable::scan_locked(Pages pages) {
  int failed = 0;
  const int error = pagemap_.take_written(pages, [&](Pages run) {
    if (int e = pagemap_.each_present(run, [&](Pages part) { note(part); })) failed = e;
  });
  return error ? error : failed;
}

void AsyncTable::note(Pages run) {
  while (!run.empty()) {
    const uint64_t end = std::min(run.end, block_down(run.begin) + kBlock);
    if (const Block* block = directory_.find(run.begin))
      each_word(*block, {run.begin, end}, [&](unsigned index, uint64_t mask) {
        word(*block, index).fetch_or(mask, std::memory_order_release);
      });
    run.begin = end;
  }
}

unsigned AsyncTable::found_pages(const Block& block) const {
  unsigned count = 0;
  for (unsigned i = 0; i < kWords; ++i)
    count += static_cast<unsigned>(std::popcount(word(block, i).load(std::memory_order_acquire)));
  return count;
}

PageSet AsyncTable::peek(const Block& block) const {
  PageSet set;
  for (unsigned i = 0; i < kWords; ++i) add_bits(set, i, word(block, i).load(std::memory_order_acquire));
  return set;
}

PageSet AsyncTable::take_found(const Block& block, Pages pages) {
  PageSet set;
  each_word(block, pages, [&](unsigned index, uint64_t mask) {
    if (word(block, index).load(std::memory_order_relaxed) & mask)
      add_bits(set, index, word(block, index).fetch_and(~mask, std::memory_order_acq_rel) & mask);
  });
  return set;
}

// By halves where the pages lie in several mappings (huge-page advice on a part is enough for that).
int AsyncTable::take_by_copy(Block& block, Pages pages, bool writable, std::byte* to) {
  const int error = detach_and_copy(pages, to);
  if (error != EFAULT || pages.count() < 2) return error;
  const uint64_t middle = pages.begin + pages.count() / 2 * kPage;
  const int first = take_by_copy(block, {pages.begin, middle}, writable, to);
  return first ? first : take_by_copy(block, {middle, pages.end}, writable, to + (middle - pages.begin));
}

} // namespace hmm
