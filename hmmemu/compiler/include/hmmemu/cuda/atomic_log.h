// Counts atomic operations, in modules that are compiled for it (HMM_ATOMIC_REPORT); the others have nothing
// of it.
//
// The rewriter numbers the operations in the source (compiler/counting.py), and HMM_AT and its like tell the
// number, the site, right before the operation, when its arguments are known. The operation that comes next
// takes the site, so each is counted once: the elements of a vector, and the tries of a loop, count as the
// operation that they are part of.
//
// Each worker counts in a table of its own (hmm_atomic_log), which nobody else touches while kernels run.
#pragma once

namespace hmm {

#ifdef HMM_ATOMIC_REPORT
inline constexpr bool kCounts = true;
#else
inline constexpr bool kCounts = false;
#endif

HMM_INLINE void at_site(unsigned site) {
  if (hmm_atomic_log* log = hmmemu_worker_self->log) log->next.site = site;
}

// Whether no other worker can be at work there: a block's shared memory, a thread's stack.
inline bool is_own(const hmm_worker* w, const void* address) {
  const auto lies_in = [at = (size_t)address](const unsigned char* begin, size_t bytes) {
    return at - (size_t)begin < bytes;
  };
  return lies_in(w->shared, HMM_SHARED_BYTES) || lies_in(w->stack, w->stack_bytes) ||
         lies_in(w->stacks, (size_t)HMM_MAX_THREADS * HMM_STACK_BYTES);
}

// 1 + the number of the parameter that points to it, 0 if none does.
inline unsigned array_at(const hmm_launch& launch, size_t address) {
  for (unsigned i = 0; i < launch.extent_count; ++i)
    if (address - launch.extents[i].begin < launch.extents[i].end - launch.extents[i].begin)
      return launch.extents[i].parameter + 1;
  return 0;
}

inline hmm_atomic_count* entry_of(hmm_atomic_log* log, uint64_t kernel, const hmm_atomic_kind& kind) {
  unsigned long long words[2];
  __builtin_memcpy(words, &kind, sizeof words);
  const unsigned first = unsigned((words[0] ^ words[1] * 31 ^ kernel * 127) * 0x9e3779b97f4a7c15u >> 40);
  for (unsigned i = 0; i < HMM_ATOMIC_COUNTS; ++i) {
    hmm_atomic_count* entry = &log->counts[(first + i) % HMM_ATOMIC_COUNTS];
    if (entry->kernel == 0) {
      *entry = {kernel, kind, 0, ~0ull, 0};
      return entry;
    }
    if (entry->kernel == kernel && __builtin_memcmp(&entry->kind, &kind, sizeof kind) == 0) return entry;
  }
  return nullptr;
}

// The operation that took its site (begin_atomic) ends now.
__attribute__((noinline)) inline void count_atomic(hmm_worker* w, const void* address, hmm_atomic_done done) {
  hmm_atomic_log* log = w->log;
  if (!log || log->next.site == 0) return;
  const hmm_launch& launch = *w->launch;
  const size_t at = (size_t)address;
  log->next.done = (unsigned char)done;
  log->next.array = (unsigned short)(done == HMM_DONE_LOCAL ? 0 : array_at(launch, at));
  hmm_atomic_count* entry = entry_of(log, launch.kernel, log->next);
  log->next.site = 0;
  if (!entry) {
    ++log->lost;
    return;
  }
  ++entry->count;
  if (at < entry->low) entry->low = at;
  if (at > entry->high) entry->high = at;
}

} // namespace hmm

// An expression of the source with its site: a call; an object and what it is asked for; an operator. Written
// HMM_AT(7, atomicAdd)(x, 1), HMM_AT_METHOD(7, .fetch_add)(x)(1), HMM_AT_BINARY(7, +=)(x)(1),
// HMM_AT_PREFIX(7, ++)(x).
#define HMM_AT(number, function)                                                                             \
  ([&](auto&&... hmm_a) -> decltype(auto) {                                                                  \
    ::hmm::at_site(number);                                                                                  \
    return function(static_cast<decltype(hmm_a)&&>(hmm_a)...);                                               \
  })
#define HMM_AT_METHOD(number, call)                                                                          \
  ([&](auto&& hmm_o) {                                                                                       \
    return [&](auto&&... hmm_a) -> decltype(auto) {                                                          \
      ::hmm::at_site(number);                                                                                \
      return hmm_o call(static_cast<decltype(hmm_a)&&>(hmm_a)...);                                           \
    };                                                                                                       \
  })
#define HMM_AT_BINARY(number, sign)                                                                          \
  ([&](auto&& hmm_o) {                                                                                       \
    return [&](auto&& hmm_a) -> decltype(auto) {                                                             \
      ::hmm::at_site(number);                                                                                \
      return hmm_o sign static_cast<decltype(hmm_a)&&>(hmm_a);                                               \
    };                                                                                                       \
  })
#define HMM_AT_PREFIX(number, sign)                                                                          \
  ([&](auto&& hmm_o) -> decltype(auto) {                                                                     \
    ::hmm::at_site(number);                                                                                  \
    return sign hmm_o;                                                                                       \
  })
#define HMM_AT_POSTFIX(number, sign)                                                                         \
  ([&](auto&& hmm_o) -> decltype(auto) {                                                                     \
    ::hmm::at_site(number);                                                                                  \
    return hmm_o sign;                                                                                       \
  })
