// Kernel modules: loading, their __device__ variables, and kernels by handle.
#pragma once
#include "device.h"
#include <string>

namespace hmmemu::device {

struct LoadResult {
  uint32_t status;     // Status
  uint64_t value;      // bytes that the module's globals take or would take
  std::string text;    // JSON tables of the module, or what went wrong
  int descriptor = -1; // goes with the answer, and is closed
};

// Agent thread only.
LoadResult load_module(const std::string& path, uint64_t globals, uint64_t capacity, bool initialise);
LoadResult unload_module(uint64_t module);

// Null if the handle is not, or no longer, valid. Any thread.
const hmm_kernel* find_kernel(uint64_t handle);

} // namespace hmmemu::device
