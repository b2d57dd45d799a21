// Atomics of system scope: what the link to the CPU has is done where the page is, the rest by a fallback.
//
// hmm_link (abi.h) tells which. An operation is an instruction like any other; `wanted` tells whoever serves
// a page fault of that instruction whether the page may stay in the CPU's memory, where this device then maps
// it (the link has the operation), or the CPU has to lose it. For an operation that the link lacks the
// fallback is asked for, but only if the page is there: on a page of the device's own every operation works.
// That is looked up before the operation, and may change in between; the operation is atomic on all sides in
// any case.
//
// `wanted` is the page of the latest operation and stays, so operations in a row on a page cost loads and
// branches that the CPU foresees, and no store: a locked instruction waits for all stores before it. A plain
// access that faults on that page meanwhile is taken for such an operation, which decides only where the page
// goes. The loader clears it when the kernel waits or has run.
#pragma once

namespace hmm {

enum { kWantedAtomic = 1, kWantedOwn }; // *hmm_worker::wanted

// The code of an operation on a type, as the link knows it.
template <class Operation, class T> constexpr hmm_atomic_op code_of() {
  if (hmm_cuda::hmm_is_integer<T> || Operation::moves_bits) return Operation::code;
  return Operation::code == HMM_ATOMIC_MIN   ? HMM_ATOMIC_FLOAT_MIN
         : Operation::code == HMM_ATOMIC_MAX ? HMM_ATOMIC_FLOAT_MAX
                                             : HMM_ATOMIC_FLOAT_ADD;
}

// The bit of an operation in hmm_link::native; no link has operations on single bytes.
constexpr unsigned long long native_bit(hmm_atomic_op operation, size_t bytes, int lanes = 1) {
  if (lanes > 1 && bytes == 4) return HMM_NATIVE_FLOATS;
  const int size = bytes == 2 ? 0 : bytes == 4 ? 1 : bytes == 8 ? 2 : 3;
  return bytes == 1 ? 0 : 1ull << (4 * operation + size);
}

template <class T> constexpr bool is_signed() {
  if constexpr (hmm_cuda::hmm_is_integer<T>) return (T)-1 < (T)0;
  return false;
}

// Whether the link does it in place, as Link.native of link.py says.
template <class Operation, int lanes, class T> HMM_INLINE bool is_native(const hmm_worker* w) {
  return w->link->native[is_signed<T>()] & native_bit(code_of<Operation, T>(), sizeof(T), lanes);
}

template <class Operation, class T, class... Operand> HMM_INLINE T on_device(T* address, Operand... operand) {
  return hmm_cuda::hmm_on_device<Operation, hmm_cuda::hmm_scope::device>(address, operand...);
}

// What page faults at the address are for, from now on.
HMM_INLINE void want(hmm_worker* w, const void* address, size_t wanted) {
  *w->wanted = ((size_t)address & ~(size_t)4095) | wanted;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

HMM_INLINE bool is_wanted(const hmm_worker* w, const void* address, size_t wanted) {
  return *w->wanted == (((size_t)address & ~(size_t)4095) | wanted);
}

template <class Operation, class T, class... Operand>
HMM_INLINE T in_place(hmm_worker* w, T* address, Operand... operand) {
  want(w, address, kWantedAtomic);
  return on_device<Operation>(address, operand...);
}

HMM_INLINE bool is_remote(const hmm_worker* w, const void* address) {
  const size_t page = (size_t)address >> 12;
  return __atomic_load_n(w->remote + page / 8, __ATOMIC_RELAXED) >> page % 8 & 1;
}

// Moves nothing: leaves the page where an operation of the link's would find it.
HMM_INLINE void look_up(hmm_worker* w, void* address) {
  unsigned* word = (unsigned*)((size_t)address & ~(size_t)3);
  in_place<hmm_cuda::hmm_op_or>(w, word, 0u);
}

// What is done with an operation that the link lacks. A loop of compare-and-swap needs one of the link's.
HMM_INLINE unsigned fallback_of(const hmm_worker* w, size_t bytes) {
  const unsigned asked = w->link->fallback;
  if (asked != HMM_FALLBACK_CAS_LOOP) return asked;
  const bool has = w->link->native[0] & native_bit(HMM_ATOMIC_CAS, bytes < 4 ? 4 : bytes);
  return has ? HMM_FALLBACK_CAS_LOOP : HMM_FALLBACK_FAULT;
}

template <class Operation, class T, class... Operand>
__attribute__((noinline)) T fall_back(hmm_worker* w, T* address, Operand... operand) {
  switch (fallback_of(w, sizeof(T))) {
  case HMM_FALLBACK_CAS_LOOP:
    return in_place<Operation>(w, address, operand...);
  case HMM_FALLBACK_FAULT:
  case HMM_FALLBACK_SILENT:
    look_up(w, address);
    if (!is_remote(w, address)) return on_device<Operation>(address, operand...);
    if (fallback_of(w, sizeof(T)) == HMM_FALLBACK_FAULT) {
      if constexpr (kCounts) count_atomic(w, address, HMM_DONE_FAULT);
      refuse_atomic(w, code_of<Operation, T>(), sizeof(T), address);
    }
    return __builtin_bit_cast(T, hmm_cuda::hmm_load_word((hmm_cuda::hmm_word_of<T>*)address));
  default: // migrate, exclusive; the page is remote, and the CPU uses it, too
    want(w, address, kWantedOwn);
    w->services->own(w, address);
    return on_device<Operation>(address, operand...);
  }
}

// How an operation on that page was done; `brought`: by how much hmm_worker::brought grew.
template <class Operation, hmm_cuda::hmm_scope scope, int lanes, class T>
hmm_atomic_done done_as(const hmm_worker* w, const T* address, unsigned brought) {
  if (is_own(w, address)) return HMM_DONE_LOCAL;
  const bool remote = is_remote(w, address);
  if (!remote && !brought) return HMM_DONE_THERE;
  if (scope != hmm_cuda::hmm_scope::system || is_native<Operation, lanes, T>(w))
    return remote ? HMM_DONE_IN_PLACE : HMM_DONE_MOVED;
  if (brought >> 16) return HMM_DONE_EXCLUSIVE;
  if (!remote) return HMM_DONE_MOVED;
  switch (fallback_of(w, sizeof(T))) {
  case HMM_FALLBACK_CAS_LOOP:
    return HMM_DONE_CAS_LOOP;
  case HMM_FALLBACK_SILENT:
    return HMM_DONE_LOST;
  default: // it was taken, and is remote again by now
    return brought ? HMM_DONE_MOVED : HMM_DONE_THERE;
  }
}

// Whether the fallback is that the CPU loses the page.
HMM_INLINE bool takes_page(const hmm_worker* w) {
  return w->link->fallback == HMM_FALLBACK_MIGRATE || w->link->fallback == HMM_FALLBACK_EXCLUSIVE;
}

// Every atomic operation of system scope.
template <class Operation, int lanes, class T, class... Operand>
HMM_INLINE T system_atomic(T* address, Operand... operand) {
  hmm_worker* w = hmmemu_worker_self;
  const bool native = is_native<Operation, lanes, T>(w);
  const int wanted = native ? kWantedAtomic : kWantedOwn;
  const bool ready = is_wanted(w, address, wanted) && (native || !is_remote(w, address));
  if (__builtin_expect(!ready, 0)) {
    if (!native && (is_remote(w, address) || !takes_page(w)))
      return fall_back<Operation>(w, address, operand...);
    want(w, address, wanted);
  }
  return on_device<Operation>(address, operand...);
}

} // namespace hmm
