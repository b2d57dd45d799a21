// Relief: more threads for a launch whose blocks wait for blocks that nobody runs.
//
// A GPU keeps many blocks resident at a time, so a block may wait for another (a barrier of the whole grid, a
// queue that other blocks fill) as long as all fit. The pool runs as many blocks as there are workers. When
// all of them wait, a watching thread sees that no block begins any more, and calls further threads in, twice
// as many each time; they run the blocks that are left, and the kernel's scheduler shares the CPUs among all.
#pragma once
#include "device.h"

namespace hmmemu::device {

// Worker 0, before and after a launch whose blocks may wait for each other and are more than the workers.
void watch_launch();
void unwatch_launch();

// services->wait: a kernel waits, perhaps for another block.
void wait_for_others(hmm_worker* worker);

} // namespace hmmemu::device
