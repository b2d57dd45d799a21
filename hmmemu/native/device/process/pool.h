// One launch shared among the workers.
#pragma once
#include "device.h"

namespace hmmemu::device {

// Before any worker starts. Workers from number `cpus` on share their CPU with others.
void open_pool(uint32_t workers, uint32_t cpus);

// Worker 0: runs every block of the launch, with help if there is more than one chunk. Returns when
// all are done.
void run_launch(Worker& worker, const hmm_kernel* kernel, const hmm_launch& launch, uint64_t ticket);

// services->yield: a kernel spins, perhaps for another block.
void yield(hmm_worker* worker);

// Workers 1 and up: helps with launches, for ever.
void help(Worker& worker);

// How many blocks of the launch under way have not begun; 0 if there is none.
uint64_t look_at_launch();

// Helps with the launch under way, if there is one.
void join_launch(Worker& worker);

} // namespace hmmemu::device
