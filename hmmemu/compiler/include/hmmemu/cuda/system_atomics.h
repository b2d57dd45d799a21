// Atomics of system scope: what the link to the CPU has is done where the page is, the rest by a fallback.
//
// hmm_link (abi.h) tells which. An operation that the link has is an instruction like any other; `wanted`
// tells whoever serves a page fault of that instruction that the page may stay in the CPU's memory, where
// this device then maps it. For an operation that the link lacks the fallback is asked for, but only if the
// page is there: on a page of the device's own every operation works. That is looked up before the operation,
// and may change in between; the operation is atomic on all sides in any case.
#pragma once

namespace hmm {

enum { kWantedNothing, kWantedAtomic, kWantedOwn, kWantedAlone }; // *hmm_worker::wanted

// The code of an operation on a type, as the link knows it.
template <class Operation, class T> constexpr hmm_atomic_op code_of() {
  if (hmm_cuda::hmm_is_integer<T> || Operation::moves_bits) return Operation::code;
  return Operation::code == HMM_ATOMIC_MIN   ? HMM_ATOMIC_FLOAT_MIN
         : Operation::code == HMM_ATOMIC_MAX ? HMM_ATOMIC_FLOAT_MAX
                                             : HMM_ATOMIC_FLOAT_ADD;
}

// Its bit in hmm_link::native; no link has operations on single bytes.
template <class Operation, class T> constexpr unsigned long long bit_of() {
  constexpr int size = sizeof(T) == 2 ? 0 : sizeof(T) == 4 ? 1 : sizeof(T) == 8 ? 2 : 3;
  return sizeof(T) == 1 ? 0 : 1ull << (4 * code_of<Operation, T>() + size);
}

template <class Operation, class T, class Operand> HMM_INLINE T on_device(T* address, Operand operand) {
  return hmm_cuda::hmm_on_device<Operation, hmm_cuda::hmm_scope::device>(address, operand);
}

template <class Operation, class T, class Operand>
HMM_INLINE T in_place(hmm_worker* w, T* address, Operand operand, int wanted = kWantedAtomic) {
  *w->wanted = wanted;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  const T old = on_device<Operation>(address, operand);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  *w->wanted = kWantedNothing;
  return old;
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

template <class Operation, class T, class Operand>
__attribute__((noinline)) T fall_back(hmm_worker* w, T* address, Operand operand) {
  switch (w->link->fallback) {
  case HMM_FALLBACK_CAS_LOOP:
    return in_place<Operation>(w, address, operand);
  case HMM_FALLBACK_FAULT:
  case HMM_FALLBACK_SILENT:
    look_up(w, address);
    if (!is_remote(w, address)) return on_device<Operation>(address, operand);
    if (w->link->fallback == HMM_FALLBACK_FAULT)
      refuse_atomic(w, code_of<Operation, T>(), sizeof(T), address);
    return __builtin_bit_cast(T, hmm_cuda::hmm_load_word((hmm_cuda::hmm_word_of<T>*)address));
  case HMM_FALLBACK_EXCLUSIVE: // the page is remote, and the CPU uses it, too
    w->services->own(w, address);
    return in_place<Operation>(w, address, operand, kWantedAlone);
  default: // migrate, and the page is remote
    w->services->own(w, address);
    const T old = on_device<Operation>(address, operand);
    *w->wanted = kWantedNothing;
    return old;
  }
}

// Every atomic operation of system scope. A page that has moved to the device costs little more than an
// operation of device scope: both share one copy of the instruction.
template <class Operation, class T, class Operand> HMM_INLINE T system_atomic(T* address, Operand operand) {
  hmm_worker* w = hmmemu_worker_self;
  const bool native = w->link->native & bit_of<Operation, T>();
  const bool alone = w->link->fallback == HMM_FALLBACK_EXCLUSIVE;
  if (!native && (is_remote(w, address) || !(alone || w->link->fallback == HMM_FALLBACK_MIGRATE)))
    return fall_back<Operation>(w, address, operand);
  return in_place<Operation>(w, address, operand,
                             native  ? kWantedAtomic
                             : alone ? kWantedAlone
                                     : kWantedNothing);
}

} // namespace hmm
