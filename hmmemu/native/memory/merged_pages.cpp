#include "memory/merged_pages.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace hmm {
namespace {

// The file's text, from a buffer on the stack: nothing here may allocate.
template <class Visit> void each_chunk(const char* path, Visit visit) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_errno(FailureKind::Unsupported, std::string("cannot read ") + path);
  char text[8192];
  ssize_t n;
  while ((n = read(fd, text, sizeof text)) > 0) visit(text, n);
  close(fd);
}

} // namespace

int MergedPages::map(Pages pages, Frame frame, int rights) {
  void* at = mmap(reinterpret_cast<void*>(pages.begin), pages.bytes(), rights,
                  MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, store_.fd(), FrameStore::file_offset(frame));
  return at == MAP_FAILED ? errno : 0;
}

int MergedPages::restore(Block& block, Pages pages) {
  const SourceMapping source = store_.mapping(store_.mapping_of(page_number(block, pages.begin)));
  if (!source.shared())
    return own_memory_.give(block, pages, reinterpret_cast<const std::byte*>(pages.begin));
  void* own = reinterpret_cast<void*>(source.alias + (pages.begin - source.pages.begin));
  void* at = mremap(own, 0, pages.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED,
                    reinterpret_cast<void*>(pages.begin)); // an old size of 0 duplicates the mapping
  return at == MAP_FAILED ? errno : 0;
}

MergedPages::Room MergedPages::room() {
  Room room{0, 0};
  each_chunk("/proc/self/maps", [&](const char* text, ssize_t n) {
    for (ssize_t i = 0; i < n; ++i) room.used += text[i] == '\n';
  });
  each_chunk("/proc/sys/vm/max_map_count", [&](const char* text, ssize_t n) {
    for (ssize_t i = 0; i < n && text[i] >= '0' && text[i] <= '9'; ++i)
      room.limit = room.limit * 10 + (text[i] - '0');
  });
  return room;
}

} // namespace hmm
