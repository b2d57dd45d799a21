// CUDA's <cuComplex.h>. Without the prelude (when only the preprocessor runs) it defines nothing.
#pragma once
#ifdef HMM_ASSERT
#include "hmmemu/cuda/cucomplex.h"
#endif
