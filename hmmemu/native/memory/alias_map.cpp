#include "memory/alias_map.h"

#include "memory/each_mapping.h"
#include "memory/second_mapping.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmm {
namespace {

#ifndef MADV_POPULATE_READ // Linux 5.14
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

// Nothing can be read or written here; it only keeps the addresses.
void* close_off(void* at, uint64_t bytes, int fixed) {
  return mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
}

bool populate(const void* at, uint64_t bytes, int how) {
  int error = EAGAIN;
  while (error == EAGAIN || error == EINTR) error = madvise(const_cast<void*>(at), bytes, how) ? errno : 0;
  return error == 0;
}

} // namespace

AliasMap::AliasMap(const Directory& directory)
    : directory_(directory), memory_(uint64_t{Directory::kMostBlocks} * kBlock, true),
      made_(Directory::kMostBlocks, true) {
  close_off(memory_.as<void>(), memory_.bytes(), MAP_FIXED);
}

template <class Act> int AliasMap::each_block(Pages pages, Act act) const {
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
    Block* block = directory_.find(a);
    if (!block) return EFAULT;
    if (int error = act(*block, Pages{a, std::min(pages.end, block->address + kBlock)})) return error;
  }
  return 0;
}

int AliasMap::add(Pages pages) {
  const int error = each_mapping(pages, [&](Pages mapping) { return add_mapping(mapping); });
  if (error) remove(pages);
  return error;
}

int AliasMap::add_mapping(Pages pages) {
  return each_block(pages, [&](const Block& block, Pages part) {
    made_.as<bool>()[block.slot] = true;
    return map_again(part, at(block, part));
  });
}

int AliasMap::add_block(const Block& block, int file) {
  bool& made = made_.as<bool>()[block.slot];
  const int error = made ? 0 : map_by_address(file, block.all(), at(block, block.all()));
  made = made || !error;
  return error;
}

void AliasMap::remove(Pages pages) {
  each_block(pages, [&](const Block& block, Pages part) {
    if (made_.as<bool>()[block.slot] && close_off(at(block, part), part.bytes(), MAP_FIXED) == MAP_FAILED)
      fatal("cannot unmap the alias of 0x%lx: errno %d", part.begin, errno);
    return 0;
  });
}

const std::byte* AliasMap::readable(const Block& block, Pages pages) const {
  const std::byte* found = at(block, pages);
  return populate(found, pages.bytes(), MADV_POPULATE_READ) ? found : nullptr;
}

std::byte* AliasMap::writable(const Block& block, Pages pages) const {
  std::byte* found = at(block, pages);
  return populate(found, pages.bytes(), MADV_POPULATE_WRITE) ? found : nullptr;
}

} // namespace hmm
