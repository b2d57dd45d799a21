// CUDA's atomic functions: the prelude of every kernel has them already. Host-side calls are not offered to
// kernels.
#pragma once
