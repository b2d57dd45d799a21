#include "memory/common_frames.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace hmm {

CommonFrames::CommonFrames() : file_(memfd_create("hmmemu-common", MFD_CLOEXEC)) {
  if (file_ >= 0 && ftruncate(file_, off_t{1} << kAddressBits) == 0) return;
  const int error = errno;
  close();
  errno = error;
  throw_errno(FailureKind::OutOfMemory,
              "cannot make a file for memory that devices use in place (a limit? see `ulimit -f`)");
}

void CommonFrames::close() {
  if (file_ >= 0) ::close(file_);
  file_ = -1;
}

int CommonFrames::put(const Block& block, Pages pages, const std::byte* content) {
  std::memcpy(alias_.at(file_, block, pages), content, pages.bytes());
  const int error = map_by_address(file_, pages, reinterpret_cast<void*>(pages.begin));
  if (error) free(pages);
  return error;
}

int CommonFrames::free(Pages pages) const {
  const auto begin = static_cast<off_t>(pages.begin), bytes = static_cast<off_t>(pages.bytes());
  return fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, bytes) ? errno : 0;
}

} // namespace hmm
