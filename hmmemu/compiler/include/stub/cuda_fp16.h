// CUDA's half precision. Part of the prelude in spirit, but compiled only where it is asked for; without the
// prelude (when only the preprocessor runs) it defines nothing.
#pragma once
#ifdef HMM_ASSERT
#include "hmmemu/cuda/half.h"
#endif
