// Which shared object an instruction belongs to, for crash records. dladdr takes the loader's lock
// and so has no place in a signal handler; this table is filled after every load and read without
// any lock.
#pragma once
#include <cstdint>

namespace hmmemu::device {

void refresh_objects(); // agent thread, or main before the agent starts

struct Place {
  const char* path = ""; // "" if unknown
  uint64_t offset = 0;   // in the object's own addresses
};
Place find_object(uint64_t instruction); // async-signal-safe

} // namespace hmmemu::device
