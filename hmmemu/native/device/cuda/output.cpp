// Purpose: capture the standard output and error in memory files.
#include "output.h"

#include "device/process/output.h"

#include <algorithm>
#include <cstdio>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

class Captured {
 public:
  // `descriptor` becomes a memory file. False: it cannot be had.
  bool begin(int descriptor, const char* name) {
    file_ = memfd_create(name, MFD_CLOEXEC);
    return file_ >= 0 && fcntl(file_, F_SETFL, O_APPEND) == 0 && dup2(file_, descriptor) == descriptor;
  }

  // What was written since the last call. Its memory is given back; the file grows on, so that nothing
  // written meanwhile is lost.
  std::string take() {
    struct stat now;
    if (file_ < 0 || fstat(file_, &now) != 0 || now.st_size <= taken_) return "";
    std::string text(size_t(now.st_size - taken_), '\0');
    const ssize_t got = pread(file_, text.data(), text.size(), taken_);
    text.resize(size_t(std::max<ssize_t>(got, 0)));
    fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, taken_, off_t(text.size()));
    taken_ += off_t(text.size());
    return text;
  }

 private:
  int file_ = -1;
  off_t taken_ = 0;
};

Captured printed, complaints;
device::Worker nobody; // prints for the kernels
int user_error = 2;

} // namespace

const char* capture_output() {
  user_error = fcntl(2, F_DUPFD_CLOEXEC, 3);
  if (user_error < 0 || !printed.begin(1, "hmmemu-printf") || !complaints.begin(2, "hmmemu-stderr"))
    return "cannot make the files for what CUDA prints";
  return nullptr;
}

// Lines one by one: the channel drops what has no room, and not all for the last of it.
void deliver_printf() {
  fflush(stdout);
  const std::string text = printed.take();
  for (size_t at = 0, end; at < text.size(); at = end) {
    end = std::min(text.find('\n', at), text.size() - 1) + 1;
    device::print(&nobody.abi, text.data() + at, end - at);
  }
}

std::string deliver_errors() {
  const std::string text = complaints.take();
  for (size_t at = 0; at < text.size();) {
    const ssize_t done = write(user_error, text.data() + at, text.size() - at);
    if (done <= 0) break; // nobody reads there
    at += size_t(done);
  }
  return text;
}

} // namespace hmmemu::cuda
