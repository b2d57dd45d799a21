// A kernel of a GPU's module, as the dispatcher finds it.
#pragma once
#include "hmmemu/abi.h"
#include "libcuda.h"
#include <vector>

namespace hmmemu::cuda {

class Variables;

struct CudaKernel {
  hmm_kernel abi; // first: the dispatcher's `hmm_kernel*` is a `CudaKernel*`; `run` is null
  Function* function;
  Variables* variables;           // of its module
  std::vector<uint32_t> pointers; // where its parameters have some: offsets in their block
  bool prints = false;            // it, or another of its module: printf, assert
};

} // namespace hmmemu::cuda
