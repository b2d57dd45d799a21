// A file descriptor with an owner. `replace` keeps the number: threads that poll it meanwhile see
// the old file or the new one, never a stranger that got the same number.
#pragma once
#include <fcntl.h>
#include <unistd.h>
#include <utility>

namespace hmmemu::device {

class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  void replace(OwnedFd next) {
    if (fd_ < 0)
      std::swap(fd_, next.fd_);
    else if (next)
      dup3(next.fd_, fd_, O_CLOEXEC);
  }
  // Away from 0, 1, 2, which belong to the standard streams even where the program has closed them.
  static OwnedFd above_standard(int fd) {
    if (fd < 0 || fd > 2) return OwnedFd(fd);
    OwnedFd low(fd);
    return OwnedFd(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  }

 private:
  int fd_ = -1;
};

} // namespace hmmemu::device
