// The GPUs of this machine, as text for Python.
#pragma once
#include <string>

namespace hmmemu::cuda {

// JSON: {"driver": 12040, "gpus": [{...}, ...]}; the fields are those of hmmemu.gpus.Gpu. Throws CudaError.
std::string describe_gpus();

} // namespace hmmemu::cuda
