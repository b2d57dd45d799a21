// make_float4 and the like: the prelude of every kernel has them already. Host-side calls are not offered to
// kernels.
#pragma once
