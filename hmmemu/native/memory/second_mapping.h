// A second mapping of shared memory that this process has mapped already: the same frames at another address,
// which no tracker watches.
#pragma once
#include "base/pages.h"

namespace hmm {

// Maps the pages, which are MAP_SHARED and lie in one mapping, at `at` too, in place of what is there: for
// reading and writing, or for reading where the file is open for that only. Fork children do not get it. For
// Python threads: it allocates. 0 or errno; EPERM: huge pages whose file cannot be reached.
int map_again(Pages pages, void* at);
// The same of frames that lie in a file, at the offset that is the page's address. Not in core dumps either,
// for which the kernel would fill the file's holes.
int map_by_address(int file, Pages pages, void* at);

} // namespace hmm
