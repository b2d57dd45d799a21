// Memory of the driver's own: mmap'ed, zeroed, never from the heap (the heap may be managed memory).
#pragma once
#include "base/failure.h"
#include "base/pages.h"
#include <cerrno>
#include <sys/mman.h>
#include <utility>

namespace hmm {

// Whether something is mapped at each of these pages, which are of one block. mincore says ENOMEM exactly if
// not.
inline bool is_mapped(Pages pages) {
  unsigned char present[kPagesPerBlock];
  return mincore(reinterpret_cast<void*>(pages.begin), pages.bytes(), present) == 0 || errno != ENOMEM;
}

class Mapping {
 public:
  Mapping() = default;
  // `bytes` of zeroed memory; address space only until touched. Not inherited by fork children when
  // `private_to_us`.
  explicit Mapping(uint64_t bytes, bool private_to_us = false) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      throw_errno(FailureKind::OutOfMemory, "cannot reserve " + std::to_string(bytes >> 20) +
                                                " MiB of address space (a limit? see `ulimit -v`)");
    }
    if (private_to_us) madvise(data_, bytes, MADV_DONTFORK);
  }
  Mapping(Mapping&& other) noexcept { *this = std::move(other); }
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  ~Mapping() {
    if (data_) munmap(data_, bytes_);
  }

  template <class T> T* as() const { return static_cast<T*>(data_); }
  uint64_t address() const { return reinterpret_cast<uint64_t>(data_); }
  uint64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
};

} // namespace hmm
