// A page fault, and where faults come from: a userfaultfd, or a device process that catches its own.
#pragma once
#include <cstdint>
#include <sys/types.h>

namespace hmm {

struct Fault {
  uint64_t address = 0; // page-aligned
  bool write = false;   // a store (or a read-modify-write), or a system call that writes
  bool present = false; // write-protect fault: the page is there, read-only
  pid_t thread = 0;     // who waits, 0 if not known
};

class FaultSource {
 public:
  virtual ~FaultSource() = default;
  // Readable for poll(2) when faults wait.
  virtual int fd() const = 0;
  // Reads up to `limit` faults that wait; never blocks. Returns their number, 0 if none.
  virtual unsigned read(Fault* faults, unsigned limit) = 0;
};

} // namespace hmm
