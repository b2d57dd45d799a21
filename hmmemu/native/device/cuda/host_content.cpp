// Purpose: read and write what pages hold on the host. Locks: see the header.
#include "host_content.h"

#include "device/process/device.h"
#include "device/process/host_frames.h"
#include "libcuda.h"
#include "page_bits.h"

#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

// Until all is done or `act` says that there is no more; returns the bytes that were done.
template <class Act> uint64_t transfer(uint64_t bytes, const char* what, Act act) {
  uint64_t done = 0;
  while (done < bytes) {
    const ssize_t n = act(done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw CudaError(0, std::string(what) + ": " + strerror(errno));
    if (n == 0) break;
    done += uint64_t(n);
  }
  return done;
}

// What of [offset, offset + bytes) lies before the file's end.
uint64_t before_end(int fd, uint64_t offset, uint64_t bytes) {
  struct stat file{};
  if (fstat(fd, &file) != 0) throw CudaError(0, std::string("look at shared memory: ") + strerror(errno));
  const auto size = uint64_t(file.st_size);
  return size <= offset ? 0 : std::min(bytes, size - offset);
}

} // namespace

int HostContent::know(int fd, uint64_t address, uint64_t length, uint64_t offset) {
  const std::lock_guard hold(lock_);
  if (fd >= 0) return device::know_frames(fd, address, length, offset);
  device::forget_frames(address, length);
  return 0;
}

int HostContent::map(device::MailboxOperation operation, uint64_t address, uint64_t length, uint64_t at) {
  const std::lock_guard hold(lock_);
  return device::map_host_frames(operation, address, length, at);
}

// Calls act(descriptor, offset, begin, bytes, whether it is an object) for each part that lies in one file.
template <class Act> void HostContent::each_place(uint64_t begin, uint64_t end, Act act) {
  const std::shared_lock hold(lock_);
  for (uint64_t to; begin < end; begin = to) {
    const uint8_t in_object = bits(begin).load() & kObject;
    to = first_unlike(begin, end, kObject, in_object);
    if (!in_object) {
      act(file_, begin, begin, to - begin, false);
      continue;
    }
    const device::HostFrames frames = device::find_frames(begin, to);
    if (!frames.bytes) throw CudaError(0, "nobody told where shared memory of the program lies");
    to = begin + frames.bytes;
    act(frames.fd, frames.offset, begin, frames.bytes, true);
  }
}

void HostContent::read(uint64_t address, uint64_t bytes, std::byte* to) {
  each_place(address, address + bytes,
             [&](int fd, uint64_t offset, uint64_t begin, uint64_t part, bool object) {
               std::byte* const at = to + (begin - address);
               const uint64_t done = transfer(part, "read pages of the host", [&](uint64_t n) {
                 return pread(fd, at + n, part - n, off_t(offset + n));
               });
               if (done < part && !object) throw CudaError(0, "the video memory file is too short");
               memset(at + done, 0, part - done);
             });
}

void HostContent::write(uint64_t address, uint64_t bytes, const std::byte* from) {
  each_place(address, address + bytes,
             [&](int fd, uint64_t offset, uint64_t begin, uint64_t part, bool object) {
               const std::byte* const at = from + (begin - address);
               if (object) part = before_end(fd, offset, part); // a write would make it longer
               transfer(part, "write pages of the host",
                        [&](uint64_t n) { return pwrite(fd, at + n, part - n, off_t(offset + n)); });
             });
}

ObjectPlace HostContent::find_object(uint64_t address, uint64_t end) {
  const std::shared_lock hold(lock_);
  const device::HostFrames frames = device::find_frames(address, end);
  struct stat file{};
  if (!frames.bytes || fstat(frames.fd, &file) != 0) return {{}, 0, device::kPage};
  return {{file.st_dev, file.st_ino}, frames.offset, frames.bytes};
}

WindowPlace HostContent::map_window(uint64_t address, uint64_t low, uint64_t high) {
  const std::shared_lock hold(lock_);
  if (!(bits(address).load() & kObject)) return {};
  const device::HostFrames frames = device::find_frames(address, high);
  if (!frames.bytes) return {};
  const uint64_t before = std::min(frames.before, address - low), bytes = before + frames.bytes;
  if (before_end(frames.fd, frames.offset - before, bytes) < bytes) return {};
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, frames.fd,
                        off_t(frames.offset - before));
  if (at == MAP_FAILED) return {};
  return {address - before, address + frames.bytes, static_cast<std::byte*>(at)};
}

bool HostContent::is_zeros(uint64_t begin, uint64_t end) {
  bool zeros = true;
  each_place(begin, end, [&](int fd, uint64_t offset, uint64_t, uint64_t part, bool object) {
    if (!object || !zeros) return;
    const off_t data = lseek(fd, off_t(offset), SEEK_DATA); // ENXIO: none follows
    zeros = data < 0 ? errno == ENXIO : uint64_t(data) >= offset + part;
  });
  return zeros;
}

} // namespace hmmemu::cuda
