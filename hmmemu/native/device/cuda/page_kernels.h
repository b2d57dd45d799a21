// kernels/pages.cu as the helper uses it: gather, scatter and comparison of pages.
//
// The CPU process compiles it (NVRTC lives there) and names the file in the channel. Everything works
// without: pages are then copied run by run, and none is compared.
//
// Invariant: a launch that cannot be had is no error; it turns the kernels off for good, and its caller goes
// the plain way. What a launched kernel does wrong shows at the next wait for its stream, as with every
// kernel.
#pragma once
#include "libcuda.h"
#include <string>

namespace hmmemu::cuda {

// Whether there are kernels: the file is loaded at the first call. Any thread, in the GPU's context.
bool has_page_kernels();

// pages[i] is a page's number, its address / 4096. Queued on `stream`. False: they cannot be had.
bool gather_pages(Address pages, int count, Address buffer, Stream* stream);
bool scatter_pages(Address pages, int count, Address buffer, Stream* stream);
// Sets bit i of `changed` where page i of `now` differs from page i of `before`.
bool find_changed_pages(Address now, Address before, int count, Address changed, Stream* stream);

} // namespace hmmemu::cuda
