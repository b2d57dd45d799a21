// Worker 0's loop over the queue of launches and markers, on an emulated device.
#pragma once
#include "device.h"

namespace hmmemu::device {

[[noreturn]] void run_queue(Worker& worker);

} // namespace hmmemu::device
