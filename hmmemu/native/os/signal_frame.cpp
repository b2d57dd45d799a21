#include "os/signal_frame.h"

#include <cstring>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace hmm::segv {
namespace {

bool is_page_fault(const siginfo_t& info) {
  if (info.si_signo == SIGBUS) return info.si_code == BUS_ADRERR;
  return info.si_signo == SIGSEGV && (info.si_code == SEGV_MAPERR || info.si_code == SEGV_ACCERR);
}

// Whether the page is there is not said: without a right, the processor cannot tell.
Fault made(const void* address, bool write) {
  const auto at = reinterpret_cast<uint64_t>(address);
  return {page_down(at), write, false, static_cast<pid_t>(syscall(SYS_gettid))};
}

#if defined(__x86_64__)

constexpr uint64_t kWriteBit = 1u << 1, kPageFaultTrap = 14; // of the error code; the exception's number

bool was_write(const ucontext_t& context) { return context.uc_mcontext.gregs[REG_ERR] & kWriteBit; }

// What the kernel pushes before it calls a handler (struct rt_sigframe, arch/x86/include/asm/sigframe.h).
struct Frame {
  uint64_t restorer; // the handler returns to it
  uint64_t flags, link, stack[3];
  uint64_t registers[32]; // struct sigcontext; the first 23 in the order of REG_R8 ... REG_CR2
}; // and more, the siginfo only for handlers that want it

bool read_stack(uint64_t address, void* to, size_t bytes) {
  iovec mine{to, bytes}, there{reinterpret_cast<void*>(address), bytes};
  return process_vm_readv(getpid(), &mine, 1, &there, 1, 0) == ssize_t(bytes);
}

// Where every handler installed through the C library returns to.
uint64_t restorer() {
  struct { // the kernel's struct sigaction
    uint64_t handler, flags, restorer, mask;
  } action{};
  if (syscall(SYS_rt_sigaction, SIGSEGV, nullptr, &action, 8) != 0) return 0;
  return action.restorer;
}

bool is_frame_of(uint64_t address, uint64_t cr2, Fault& fault) {
  Frame frame;
  if (!read_stack(address, &frame, sizeof frame)) return false;
  if (frame.registers[REG_TRAPNO] != kPageFaultTrap || frame.registers[REG_CR2] != cr2) return false;
  fault = made(reinterpret_cast<void*>(cr2), frame.registers[REG_ERR] & kWriteBit);
  return true;
}

#elif defined(__aarch64__)

// The syndrome register lies in one of the records behind the registers
// (arch/arm64/include/uapi/asm/sigcontext.h).
bool was_write(const ucontext_t& context) {
  constexpr uint32_t kSyndromeMagic = 0x45535201, kNotRead = 1u << 6;
  const auto* record = reinterpret_cast<const uint8_t*>(context.uc_mcontext.__reserved);
  const uint8_t* const end = record + sizeof context.uc_mcontext.__reserved;
  while (record + 16 <= end) {
    uint32_t head[2]; // magic, size
    uint64_t syndrome;
    std::memcpy(head, record, sizeof head);
    std::memcpy(&syndrome, record + 8, sizeof syndrome);
    if (head[0] == kSyndromeMagic) return syndrome & kNotRead;
    if (!head[0] || head[1] < 8) return false;
    record += head[1];
  }
  return false;
}

#endif

} // namespace

bool fault_of(const siginfo_t& info, const ucontext_t& context, Fault& fault) {
  if (!is_page_fault(info)) return false;
  fault = made(info.si_addr, was_write(context));
  return true;
}

#if defined(__x86_64__)

// The registers of the last fault stay in the thread, so CR2 alone would take a plain raise(SIGSEGV) for a
// fault. The frame of the fault must be there too, a little up the stack from where the signal was raised.
bool fault_below(const siginfo_t& info, const ucontext_t& context, Fault& fault) {
  constexpr uint64_t kFar = 8192, kWindow = 256;
  const auto& registers = context.uc_mcontext.gregs;
  if (info.si_signo != SIGSEGV || info.si_code != SI_TKILL || info.si_pid != getpid()) return false;
  if (registers[REG_TRAPNO] != kPageFaultTrap) return false;
  const uint64_t wanted = restorer(), cr2 = registers[REG_CR2], begin = registers[REG_RSP] & ~uint64_t{7};
  for (uint64_t at = begin; wanted && at < begin + kFar; at += kWindow) {
    uint64_t words[kWindow / 8];
    if (!read_stack(at, words, sizeof words)) return false;
    for (uint64_t i = 0; i < kWindow / 8; ++i)
      if (words[i] == wanted && is_frame_of(at + i * 8, cr2, fault)) return true;
  }
  return false;
}

#else

bool fault_below(const siginfo_t&, const ucontext_t&, Fault&) { return false; }

#endif

} // namespace hmm::segv
