// Purpose: what same-page merging, and the end of it by a write, are measured against. No records, no second
// user.
//
// The argument is the size of one array in bytes; there are two, private and touched, with equal content, of
// which no two pages of one are equal. Requests, a line each, and the answer in seconds on one:
//   pass      reads every page once to hash it, and compares each pair: what no merging can avoid
//   fork K    writes a word of each of K pages that are shared with a fork child
//   private K writes a word of each of K pages of a private mapping of a file, which were read before
//   ksm K S   the kernel merges the arrays (its thread must run): "seconds merged writes", `merged` of all
//   pages
//             after at most S seconds; `writes` as above, of K merged pages
// Pages that are written are chosen at random. Each write's page is looked at afterwards, and its twin.
#include "yardstick.h"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <csignal>
#include <numeric>
#include <random>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

using namespace yardstick;

// Four lanes, so that the multiplications overlap.
uint64_t hash(const char* page) {
  uint64_t lanes[4] = {1, 2, 3, 4};
  for (size_t at = 0; at < kPage; at += sizeof lanes) {
    uint64_t words[4];
    std::memcpy(words, page + at, sizeof words);
    for (int i = 0; i < 4; ++i) {
      lanes[i] = (lanes[i] ^ words[i]) * 0x9e3779b97f4a7c15;
      lanes[i] ^= lanes[i] >> 29;
    }
  }
  return lanes[0] ^ lanes[1] * 3 ^ lanes[2] * 5 ^ lanes[3] * 7;
}

// How many pages of this process the kernel has merged.
size_t merged_pages() {
  std::FILE* file = std::fopen("/proc/self/ksm_merging_pages", "re");
  size_t count = 0;
  if (!file || std::fscanf(file, "%zu", &count) != 1) fail("merge: /proc/self/ksm_merging_pages");
  std::fclose(file);
  return count;
}

class Arrays {
 public:
  explicit Arrays(size_t bytes) : bytes_(bytes), order_(bytes / kPage) {
    for (char*& array : arrays_) array = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
      const uint64_t word = random_();
      std::memcpy(arrays_[0] + at, &word, sizeof word);
    }
    std::memcpy(arrays_[1], arrays_[0], bytes);
    std::iota(order_.begin(), order_.end(), size_t{0});
  }

  size_t pages() const { return order_.size(); }

  double pass() {
    const double begin = now();
    uint64_t sums[2] = {};
    bool equal = true;
    for (int i = 0; i < 2; ++i)
      for (size_t at = 0; at < bytes_; at += kPage) sums[i] += hash(arrays_[i] + at);
    for (size_t at = 0; at < bytes_; at += kPage)
      equal = equal && std::memcmp(arrays_[0] + at, arrays_[1] + at, kPage) == 0;
    const double spent = now() - begin;
    if (!equal || sums[0] != sums[1]) fail("merge: the arrays differ");
    return spent;
  }

  double after_fork(size_t count) {
    const pid_t child = fork();
    if (child < 0) fail("merge: fork");
    if (child == 0)
      for (;;) pause();
    const double spent = write(arrays_[1], arrays_[0], count);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return spent;
  }

  double of_private_mapping(size_t count) {
    const int fd = memfd_create("merge", MFD_CLOEXEC);
    if (fd < 0 || ::write(fd, arrays_[0], bytes_) != ssize_t(bytes_)) fail("merge: memfd");
    char* copy = map(bytes_, MAP_PRIVATE, fd);
    if (std::memcmp(copy, arrays_[0], bytes_) != 0) fail("merge: the file differs");
    const double spent = write(copy, arrays_[0], count);
    munmap(copy, bytes_);
    close(fd);
    return spent;
  }

  void by_the_kernel(size_t count, double limit) {
    for (char* array : arrays_)
      if (madvise(array, bytes_, MADV_MERGEABLE)) fail("merge: MADV_MERGEABLE");
    const double begin = now();
    size_t merged;
    while ((merged = merged_pages()) < 2 * pages() && now() - begin < limit) usleep(1000);
    const double spent = now() - begin;
    const double writes = write(arrays_[1], arrays_[0], count);
    for (char* array : arrays_) madvise(array, bytes_, MADV_UNMERGEABLE);
    std::printf("%.9f %.6f %.9f\n", spent, double(merged) / double(2 * pages()), writes);
  }

 private:
  // Writes a word of each of `count` pages, looks at them and their twins, and makes them equal again.
  double write(char* array, char* twin, size_t count) {
    for (size_t i = 0; i < count; ++i) std::swap(order_[i], order_[i + random_() % (order_.size() - i)]);
    const double begin = now();
    for (size_t i = 0; i < count; ++i) add(array, order_[i], 1);
    const double spent = now() - begin;
    for (size_t i = 0; i < count; ++i)
      if (word(array, order_[i]) - 1 != word(twin, order_[i])) fail("merge: a write went wrong");
    for (size_t i = 0; i < count; ++i) add(array, order_[i], ~uint64_t{0});
    return spent;
  }

  static void add(char* memory, size_t page, uint64_t value) {
    volatile uint64_t& at = word(memory, page);
    at = at + value;
  }

  const size_t bytes_;
  std::vector<size_t> order_; // page numbers
  std::mt19937_64 random_{1};
  char* arrays_[2] = {};
};

} // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  Arrays arrays(std::strtoull(arguments[1], nullptr, 10));
  char what[16];
  while (std::scanf("%15s", what) == 1) {
    size_t pages = 0;
    double limit = 0;
    if (!std::strcmp(what, "pass")) {
      std::printf("%.9f\n", arrays.pass());
    } else if (std::scanf("%zu", &pages) != 1 || pages > arrays.pages()) {
      return 2;
    } else if (!std::strcmp(what, "fork")) {
      std::printf("%.9f\n", arrays.after_fork(pages));
    } else if (!std::strcmp(what, "private")) {
      std::printf("%.9f\n", arrays.of_private_mapping(pages));
    } else if (!std::strcmp(what, "ksm") && std::scanf("%lf", &limit) == 1) {
      arrays.by_the_kernel(pages, limit);
    } else {
      return 2;
    }
    std::fflush(stdout);
  }
}
