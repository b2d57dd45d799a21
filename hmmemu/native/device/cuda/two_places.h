// Memory that a launch names at two addresses, one of them to be written.
//
// A page of shared memory that is mapped twice has one owner at a time once it is written (docs/files.md),
// and a kernel on a GPU has all its pages before it begins: such a launch never does. It costs to find out,
// so that is asked of launches that take long to begin. No lock: worker 0.
#pragma once
#include "device/protocol.h"

namespace hmmemu::cuda {

struct TwoPlaces {
  uint64_t one = 0, other = 0; // addresses of the same page; 0: there is none
};
TwoPlaces find_two_places(const device::Slot& slot);

} // namespace hmmemu::cuda
