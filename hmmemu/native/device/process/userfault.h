// The device's userfaultfd: made here, because it watches the process that makes it; used by the
// CPU process.
#pragma once
#include <cstdint>
#include <string>

namespace hmmemu::device {

struct Userfault {
  int fd = -1;
  uint64_t features = 0; // UFFD_FEATURE_*
  bool user_mode_only = false;
  std::string error; // why fd is -1
};

Userfault open_userfault();

// Maps [address, address + length) of the video memory at its own address and hands its faults to
// the userfaultfd before anything can touch it. Returns 0 or an errno; EEXIST if the range is in
// use here.
int map_vram(const Userfault& userfault, int vram, uint64_t address, uint64_t length);

} // namespace hmmemu::device
