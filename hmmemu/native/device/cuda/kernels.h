// A kernel of a GPU's module, as the dispatcher finds it.
#pragma once
#include "hmmemu/abi.h"
#include "libcuda.h"

namespace hmmemu::cuda {

class Variables;

struct CudaKernel {
  hmm_kernel abi; // first: the dispatcher's `hmm_kernel*` is a `CudaKernel*`; `run` is null
  Function* function;
  Variables* variables; // of its module
};

} // namespace hmmemu::cuda
