// Purpose: know the files that the CPU's frames lie in, and map them.
// Invariant: objects do not overlap. Parts of what was one share its descriptor, so that to divide it needs
// none and cannot fail.
#include "host_frames.h"
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <iterator>
#include <map>
#include <memory>
#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::device {
namespace {

struct Descriptor {
  explicit Descriptor(int fd) : number(fd) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() { close(number); }
  const int number;
};

struct Object {
  uint64_t end;
  std::shared_ptr<const Descriptor> file;
  uint64_t offset; // in the file, of the first byte
};

std::map<uint64_t, Object> objects; // by begin
int common = -1;

int map_at(uint64_t at, uint64_t length, int fd, uint64_t offset) {
  void* const got = mmap(reinterpret_cast<void*>(at), length, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, off_t(offset));
  return got == MAP_FAILED ? errno : 0;
}

int map_objects(uint64_t begin, uint64_t end, uint64_t at) {
  while (begin < end) {
    const HostFrames frames = find_frames(begin, end);
    if (!frames.bytes) return ENXIO;
    if (const int error = map_at(at, frames.bytes, frames.fd, frames.offset)) return error;
    at += frames.bytes;
    begin += frames.bytes;
  }
  return 0;
}

// A memfd may be sealed against it.
int why_not_writable(int fd, uint64_t length, uint64_t offset) {
  length = std::min<uint64_t>(length, 2u << 20); // a huge page at least
  void* const at =
      mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, off_t(offset));
  if (at == MAP_FAILED) return errno;
  munmap(at, length);
  return 0;
}

} // namespace

HostFrames find_frames(uint64_t address, uint64_t end) {
  const auto after = objects.upper_bound(address);
  if (after == objects.begin()) return {};
  const auto& [first, object] = *std::prev(after);
  if (object.end <= address) return {};
  return {object.file->number, object.offset + (address - first), std::min(end, object.end) - address,
          address - first};
}

int know_frames(int fd, uint64_t address, uint64_t length, uint64_t offset) {
  if (length == 0) {
    if (common >= 0) close(common);
    common = fd;
    return 0;
  }
  char name[32];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  const int opened = open(name, O_RDWR | O_CLOEXEC);
  const int error = opened < 0 ? errno : why_not_writable(opened, length, offset);
  close(fd);
  if (error) {
    if (opened >= 0) close(opened);
    return error;
  }
  forget_frames(address, length);
  objects.emplace(address, Object{address + length, std::make_shared<Descriptor>(opened), offset});
  return 0;
}

void forget_frames(uint64_t address, uint64_t length) {
  const uint64_t end = address + length;
  auto at = objects.upper_bound(address);
  if (at != objects.begin()) --at;
  while (at != objects.end() && at->first < end) {
    const auto [first, object] = *at;
    if (object.end <= address) {
      ++at;
      continue;
    }
    at = objects.erase(at);
    if (first < address) objects.emplace(first, Object{address, object.file, object.offset});
    if (object.end > end)
      objects.emplace(end, Object{object.end, object.file, object.offset + (end - first)});
  }
}

int map_host_frames(MailboxOperation operation, uint64_t address, uint64_t length, uint64_t at) {
  if (operation == kLendObject) return map_objects(address, address + length, at);
  return common < 0 ? ENXIO : map_at(at, length, common, address);
}

} // namespace hmmemu::device
