// The workers: one thread per CPU that runs blocks of kernels.
#pragma once
#include "device.h"

namespace hmmemu::device {

// Starts `count` workers (0: one per allowed CPU), all but worker 0 waiting for work, and writes
// their thread ids and CPUs to the channel. Worker 0 runs the queue. Returns null, or why it
// failed.
const char* start_workers(uint32_t count);

// Starts one more thread, the `number`th of its kind, that runs blocks: `body` is called on it and never
// returns. False: there cannot be more.
bool start_relief(uint32_t number, void (*body)(Worker&));

// Makes the lowest page of each of the worker's first `count` stacks a guard. On the worker's own thread.
void guard_stacks(Worker& worker, uint32_t count);

} // namespace hmmemu::device
