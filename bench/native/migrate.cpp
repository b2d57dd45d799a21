// Purpose: what moving memory costs at least: memcpy between two buffers that are both there, and nothing
// else.
//
// Each line on stdin is a size in bytes and how often to copy it; the answer is the seconds of each copy, on
// one line. Buffers are kept until another size is asked for; they are touched, and copied once, before a
// copy is timed.
#include "yardstick.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace {

using namespace yardstick;

class Buffer {
 public:
  void resize(size_t bytes) {
    if (data_) munmap(data_, bytes_);
    data_ = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    std::memset(data_, 1, bytes);
    bytes_ = bytes;
  }
  size_t bytes() const { return bytes_; }
  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

double copy(Buffer& target, Buffer& source, char mark) {
  const size_t bytes = source.bytes();
  source.data()[bytes / 2] = mark;
  const double begin = now();
  std::memcpy(target.data(), source.data(), bytes);
  const double seconds = now() - begin;
  if (target.data()[bytes / 2] != mark) std::exit(1);
  return seconds;
}

} // namespace

int main() {
  Buffer source, target;
  size_t bytes;
  int repeats;
  while (std::scanf("%zu %d", &bytes, &repeats) == 2) {
    if (bytes != source.bytes()) {
      source.resize(bytes);
      target.resize(bytes);
      copy(target, source, 0);
    }
    for (int i = 0; i < repeats; ++i) std::printf("%.9f ", copy(target, source, static_cast<char>(i + 1)));
    std::printf("\n");
    std::fflush(stdout);
  }
}
