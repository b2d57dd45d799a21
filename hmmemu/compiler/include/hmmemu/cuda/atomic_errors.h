// Atomic operations that end the kernel, each with a message for the user.
//
// An address that is not a multiple of the operation's size is an error on every GPU ("misaligned address"),
// in every scope. A CPU would do it, slowly, and not atomically towards a page that moves; so it is refused
// here. An aligned operation lies within one page.
#pragma once

namespace hmm {

// By hmm_atomic_op; then what is no operation of the link's.
inline constexpr const char* kAtomicNames[] = {
    "add",         "min",         "max",        "increment", "decrement",
    "and",         "or",          "xor",        "exchange",  "compare-and-swap",
    "add (float)", "min (float)", "max (float)"};

[[noreturn]] HMM_COLD inline void refuse_atomic(hmm_worker* w, int code, size_t bytes, const void* address) {
  char text[256];
  __builtin_snprintf(
      text, sizeof text,
      "atomic access violation: the link cannot do an atomic %s of %d bits, and the page of %p "
      "is in the CPU's memory",
      kAtomicNames[code], int(8 * bytes), address);
  w->services->fail(w, HMM_FAIL_ATOMIC, text);
}

[[noreturn]] HMM_COLD inline void refuse_misaligned(const char* operation, size_t bytes,
                                                    const void* address) {
  char text[256];
  __builtin_snprintf(text, sizeof text,
                     "misaligned address: atomic %s of %d bits at %p, which is not a multiple of %d bytes; "
                     "align the data (packed structures, casts and views at odd offsets break alignment)",
                     operation, int(8 * bytes), address, int(bytes));
  hmmemu_worker_self->services->fail(hmmemu_worker_self, HMM_FAIL_ATOMIC, text);
}

template <size_t bytes> HMM_INLINE void check_aligned(const char* operation, const void* address) {
  if (__builtin_expect((size_t)address & (bytes - 1), 0)) refuse_misaligned(operation, bytes, address);
}

} // namespace hmm
