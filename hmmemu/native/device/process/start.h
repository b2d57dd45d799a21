// What every device process does, whatever runs its kernels.
#pragma once

namespace hmmemu::device {

struct Descriptors {
  int control, channel, vram, bell;
};

// Returns only if the device cannot start; the parent has been told. The exit status.
int run(const Descriptors& given);

} // namespace hmmemu::device
