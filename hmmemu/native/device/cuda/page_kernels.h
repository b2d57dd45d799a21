// kernels/pages.cu as the helper uses it: gather, scatter and comparison of pages.
//
// The CPU process compiles it (NVRTC lives there) and names the file in the channel. Everything works
// without: pages are then copied run by run, and none is compared.
//
// A kernel that waits for the CPU may fill the GPU, and would keep these from running until it ends, which
// may be when the CPU has the very page that they are to bring. So while one runs (`PageKernelsRest`) there
// are none: pages cross by the copy engines alone.
//
// Invariant: a launch that cannot be had is no error; it turns the kernels off for good, and its caller goes
// the plain way. What a launched kernel does wrong shows at the next wait for its stream, as with every
// kernel.
#pragma once
#include "libcuda.h"
#include <memory>
#include <string>

namespace hmmemu::cuda {

// Whether there are kernels: the file is loaded at the first call. Any thread, in the GPU's context.
bool has_page_kernels();
// As long as somebody uses them, until his stream has been waited for.
class PageKernels {
 public:
  // Null: there are none, or a kernel runs that may wait for the CPU.
  static std::unique_ptr<PageKernels> use();
  ~PageKernels();
  PageKernels(const PageKernels&) = delete;

 private:
  PageKernels() = default;
};

// For as long as a kernel runs that may wait for the CPU. Worker 0, in the GPU's context: it waits for those
// who use page kernels now, who wait for nothing but the GPU; and what would have to be loaded meanwhile is
// loaded first, as loading may wait for kernels that run.
class PageKernelsRest {
 public:
  PageKernelsRest();
  ~PageKernelsRest();
  PageKernelsRest(const PageKernelsRest&) = delete;
};

// pages[i] is a page's number, its address / 4096. Queued on `stream`. False: they cannot be had.
bool gather_pages(Address pages, int count, Address buffer, Stream* stream);
bool scatter_pages(Address pages, int count, Address buffer, Stream* stream);
// Sets bit i of `changed` where page i of `now` differs from page i of `before`.
bool find_changed_pages(Address now, Address before, int count, Address changed, Stream* stream);

} // namespace hmmemu::cuda
