// The workers: one thread per CPU that runs blocks of kernels.
#pragma once
#include "device.h"

namespace hmmemu::device {

// Starts `count` workers (0: one per allowed CPU), all but worker 0 waiting for work, and writes
// their thread ids and CPUs to the channel. Worker 0 runs the queue. Returns null, or why it
// failed.
const char* start_workers(uint32_t count);

} // namespace hmmemu::device
