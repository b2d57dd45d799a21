// Purpose: what it costs at least to bring pages that were written to a second memory: ask the kernel which
// they are (userfaultfd with WP_ASYNC, PAGEMAP_SCAN), and memcpy those. No states, no locks, no second user.
//
// The argument is the size of the memory in bytes. Requests, a line each, and the answer in seconds on one:
//   dirty K random|run   writes a word of each of K pages, then brings them over: "writes update"
//   full                 memcpy of everything: "copy"
// The memory is private and touched, the copy a memfd of which every page is there and mapped. After each
// `dirty` the words that were written are compared.
#include "yardstick.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <numeric>
#include <random>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

namespace {

using namespace yardstick;

// The kernel's ABI (include/uapi/linux/fs.h, userfaultfd.h); headers of older distributions lack it.
struct Region {
  uint64_t start, end, categories;
};
struct Scan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kIoctlScan = _IOWR('f', 16, Scan);
constexpr uint64_t kProtectAndCheck = 3, kWritten = 2, kWpUnpopulated = 1u << 13, kWpAsync = 1u << 15;

class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes), order_(bytes / kPage), regions_(bytes / kPage) {
    const int copy = memfd_create("copy", MFD_CLOEXEC);
    pagemap_ = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (copy < 0 || pagemap_ < 0 || ftruncate(copy, off_t(bytes)) != 0) fail("dirty: memfd, pagemap");
    data_ = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    copy_ = map(bytes, MAP_SHARED, copy);
    for (char* memory : {data_, copy_}) std::memset(memory, 1, bytes);
    watch();
    std::iota(order_.begin(), order_.end(), size_t{0});
  }

  double write(size_t count, bool random) {
    ++value_;
    choose(count, random);
    const double begin = now();
    for (size_t i = 0; i < count; ++i) word(data_, order_[i]) = value_;
    return now() - begin;
  }

  double update() {
    const double begin = now();
    const size_t found = scan();
    for (size_t i = 0; i < found; ++i) {
      const auto* from = reinterpret_cast<const char*>(regions_[i].start);
      std::memcpy(copy_ + (from - data_), from, regions_[i].end - regions_[i].start);
    }
    return now() - begin;
  }

  double copy_all() {
    const double begin = now();
    std::memcpy(copy_, data_, bytes_);
    return now() - begin;
  }

  void verify(size_t count) {
    for (size_t i = 0; i < count; ++i)
      if (word(copy_, order_[i]) != value_) {
        std::fprintf(stderr, "dirty: page %zu was not brought over\n", order_[i]);
        std::exit(1);
      }
  }

  size_t pages() const { return order_.size(); }

 private:
  // The pages to be written are the first `count` of order_.
  void choose(size_t count, bool random) {
    if (random) {
      for (size_t i = 0; i < count; ++i) std::swap(order_[i], order_[i + random_() % (order_.size() - i)]);
    } else {
      std::iota(order_.begin(), order_.end(), size_t{0});
      std::rotate(order_.begin(), order_.begin() + random_() % (order_.size() - count + 1), order_.end());
    }
  }

  void watch() {
    int fd = int(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    if (fd < 0) // UFFD_USER_MODE_ONLY, 1, is for anybody
      fd = int(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = kWpAsync | kWpUnpopulated;
    uffdio_register range{};
    range.range = {reinterpret_cast<uint64_t>(data_), bytes_};
    range.mode = UFFDIO_REGISTER_MODE_WP;
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
      fail("dirty: userfaultfd");
    scan(); // all of it counts as written so far
  }

  size_t scan() {
    const auto begin = reinterpret_cast<uint64_t>(data_);
    size_t found = 0;
    for (uint64_t at = begin; at < begin + bytes_;) {
      Scan request{};
      request.size = sizeof request;
      request.flags = kProtectAndCheck;
      request.start = at;
      request.end = begin + bytes_;
      request.vec = reinterpret_cast<uint64_t>(regions_.data() + found);
      request.vec_len = regions_.size() - found;
      request.category_mask = request.return_mask = kWritten;
      const int more = ioctl(pagemap_, kIoctlScan, &request);
      if (more < 0) fail("dirty: PAGEMAP_SCAN");
      found += size_t(more);
      at = request.walk_end;
    }
    return found;
  }

  const size_t bytes_;
  std::vector<size_t> order_; // page numbers
  std::vector<Region> regions_;
  std::mt19937_64 random_{1};
  uint64_t value_ = 1;
  int pagemap_ = -1;
  char *data_ = nullptr, *copy_ = nullptr;
};

} // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  Memory memory(std::strtoull(arguments[1], nullptr, 10));
  char what[16], how[16];
  while (std::scanf("%15s", what) == 1) {
    size_t pages = 0;
    if (!std::strcmp(what, "full")) {
      std::printf("%.9f\n", memory.copy_all());
    } else if (std::scanf("%zu %15s", &pages, how) == 2 && pages <= memory.pages()) {
      const double writes = memory.write(pages, !std::strcmp(how, "random"));
      std::printf("%.9f %.9f\n", writes, memory.update());
      memory.verify(pages);
    } else {
      return 2;
    }
    std::fflush(stdout);
  }
}
