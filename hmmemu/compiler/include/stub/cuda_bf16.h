// CUDA's bfloat16; see cuda_fp16.h.
#pragma once
#ifdef HMM_ASSERT
#include "hmmemu/cuda/bfloat16.h"
#endif
