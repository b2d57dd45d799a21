// Purpose: decode the processor's own account of a fault.
#include "registers.h"

namespace hmmemu::device {

#if defined(__x86_64__)

uint64_t instruction_of(const ucontext_t* context) { return uint64_t(context->uc_mcontext.gregs[REG_RIP]); }

uint32_t access_of(const ucontext_t* context) {
  constexpr greg_t kPageFault = 14, kWrite = 2, kFetch = 16;
  const greg_t* const r = context->uc_mcontext.gregs;
  if (r[REG_TRAPNO] != kPageFault) return kAccessUnknown;
  return r[REG_ERR] & kFetch ? kAccessExecute : r[REG_ERR] & kWrite ? kAccessWrite : kAccessRead;
}

#elif defined(__aarch64__)

uint64_t instruction_of(const ucontext_t* context) { return context->uc_mcontext.pc; }

uint32_t access_of(const ucontext_t* context) {
  // Exception classes, from user mode.
  constexpr uint64_t kInstructionAbort = 0x20, kDataAbort = 0x24, kWriteNotRead = 1u << 6;
  auto* head = reinterpret_cast<const _aarch64_ctx*>(context->uc_mcontext.__reserved);
  for (; head->magic && head->size;
       head = reinterpret_cast<const _aarch64_ctx*>(reinterpret_cast<const char*>(head) + head->size)) {
    if (head->magic != ESR_MAGIC) continue;
    const uint64_t esr = reinterpret_cast<const esr_context*>(head)->esr, kind = esr >> 26 & 0x3f;
    if (kind == kInstructionAbort) return kAccessExecute;
    if (kind == kDataAbort) return esr & kWriteNotRead ? kAccessWrite : kAccessRead;
  }
  return kAccessUnknown;
}

#else

uint64_t instruction_of(const ucontext_t*) { return 0; }
uint32_t access_of(const ucontext_t*) { return kAccessUnknown; }

#endif

} // namespace hmmemu::device
