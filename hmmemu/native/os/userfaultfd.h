// userfaultfd(2), with the kernel's flags turned into types once, here.
//
// One object speaks for one process's memory: the CPU process's own, or a device process's whose descriptor
// it was handed (every operation then works on that process). All operations are system calls on ranges of
// whole pages; none allocates or locks. To take rights away from a process that is gone (ESRCH) counts as
// done; to give it pages does not, or their content would be lost.
#pragma once
#include "base/pages.h"
#include "os/fault.h"
#include <cstddef>
#include <cstdint>
#include <string>
#include <sys/types.h>
#include <vector>

namespace hmm {

class Userfaultfd final : public FaultSource {
 public:
  enum class Way { None, UserModeOnly, Device, Syscall };

  Userfaultfd() = default;
  // Opens one for this process with the features the driver needs. Throws Failure(Unsupported) with the
  // reason. `async`: stores to protected pages are no faults; os/pagemap.h tells of them afterwards.
  static Userfaultfd open(bool async = false);
  // Takes over a descriptor received from another process.
  explicit Userfaultfd(int fd) : fd_(fd) {}
  Userfaultfd(Userfaultfd&& other) noexcept { *this = static_cast<Userfaultfd&&>(other); }
  Userfaultfd& operator=(Userfaultfd&& other) noexcept;
  ~Userfaultfd() override;

  int fd() const override { return fd_; }
  Way way() const { return way_; }

  // 0 or errno.
  // Starts catching missing pages, writes to protected ones and, of memory with a file behind it (shared
  // memory, huge pages), pages that the file has but this mapping lacks.
  int add(Pages pages, bool file) const;
  int remove(Pages pages) const;                                       // stop; wakes every waiter
  int copy(Pages pages, const std::byte* source, bool writable) const; // EEXIST if a frame is there already
  int zero(Pages pages) const;
  int map_frames(Pages pages, bool writable) const; // frames that the backing file holds already
  // Moves private frames of this process to an address that is registered and empty. Returns the bytes moved,
  // from the first page on: less than all where the kernel will not move one.
  uint64_t move(Pages pages, uint64_t to) const;
  bool can_move() const { return can_move_; }
  int protect(Pages pages) const;
  int unprotect(Pages pages) const;
  int wake(Pages pages) const;
  int poison(Pages pages) const; // the next access raises SIGBUS

  unsigned read(Fault* faults, unsigned limit) override;

 private:
  int fd_ = -1;
  Way way_ = Way::None;
  bool can_move_ = false;
};

// What this machine allows, without keeping anything open.
struct UserfaultfdProbe {
  Userfaultfd::Way way = Userfaultfd::Way::None;
  std::vector<std::string> features;
  std::string reason; // in words, and what to change if something is missing
};
UserfaultfdProbe probe_userfaultfd();

} // namespace hmm
