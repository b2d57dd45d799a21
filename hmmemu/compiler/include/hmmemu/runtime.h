// The prelude of every compiled kernel module: first in the translation unit, before the user's
// rewritten source.
//
// Order: the line to the loader (abi.h), CUDA's types and functions (cuda/all.h), then how kernels
// run, each file resting on those before it (hence the blank lines: they keep the formatter from
// sorting). No standard header is included anywhere below: they would cost more compile time than
// the kernel itself.
#pragma once
// The loader defines hmmemu_worker_self in its static TLS without a constructor; `__thread` says
// so, and spares each access the call that C++ makes to see whether a `thread_local` of another
// object needs to be initialised.
#define thread_local __thread
#include "hmmemu/abi.h"
#undef thread_local

// Where the calling thread is, for the messages of assert and __trap; defined in runtime_context.h.
static bool hmm_position(hmm_dim3& block, hmm_dim3& thread);
#define HMM_THREAD_POSITION(block, thread) hmm_position(block, thread)

#include "hmmemu/cuda/all.h"

#include "hmmemu/runtime_context.h"

#include "hmmemu/runtime_warp.h"

#include "hmmemu/runtime_fiber.h"

#include "hmmemu/runtime_shared.h"

#include "hmmemu/runtime_signature.h"

#include "hmmemu/runtime_loop.h"

#include "hmmemu/runtime_block.h"

#include "hmmemu/runtime_fission.h"

#include "hmmemu/runtime_table.h"

#include "hmmemu/runtime_names.h"
