// printf of kernels: `services->print`.
#pragma once
#include "device.h"

namespace hmmemu::device {

void print(hmm_worker* worker, const char* text, size_t bytes);

} // namespace hmmemu::device
