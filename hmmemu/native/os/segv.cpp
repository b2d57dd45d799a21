#include "os/segv.h"

#include "os/signal_frame.h"
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <mutex>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/lock.h"

namespace hmm::segv {
namespace {

constexpr unsigned kMostHooks = 64, kMostPrevious = 16;

struct Slot {
  std::atomic<bool> live{false};
  std::atomic<unsigned> inside{0}; // threads that run the hook now
  Hook hook;
};
std::array<Slot, kMostHooks> slots;

// The handlers that were there before ours, oldest first: ours may have been put on top several times.
struct Chain {
  int signal;
  std::array<struct sigaction, kMostPrevious> previous;
  std::atomic<unsigned> count{0};
};
std::array<Chain, 2> chains = {Chain{.signal = SIGSEGV}, Chain{.signal = SIGBUS}};
Chain& chain_of(int signal) { return chains[signal == SIGBUS]; }

Lock install_lock; // leaf: nothing is locked, allocated or touched but static memory while it is held
std::atomic<bool> installed{false};

// initial-exec: the first use of any other thread-local variable in a thread may call malloc.
#define HMM_SIGNAL_LOCAL static thread_local __attribute__((tls_model("initial-exec")))
HMM_SIGNAL_LOCAL bool serving = false;              // this thread is inside a hook
HMM_SIGNAL_LOCAL unsigned passing[2] = {};          // 1 + the previous handler that this thread runs now
HMM_SIGNAL_LOCAL const void* tried_again = nullptr; // address of the last fault that nobody wanted

bool offer(int signal, const Fault& fault) {
  for (Slot& slot : slots) {
    if (!slot.live.load(std::memory_order_relaxed)) continue;
    slot.inside.fetch_add(1);
    bool served = false;
    if (slot.live.load()) { // still: `remove` waits for whoever got this far
      const Hook::OnFault ask = signal == SIGBUS ? slot.hook.beyond : slot.hook.access;
      served = ask && ask(slot.hook.context, fault);
    }
    slot.inside.fetch_sub(1);
    if (served) return true;
  }
  return false;
}

// A fault inside a hook is a bug of ours: it is not offered again, so that it crashes where it happened.
bool serve(int signal, const siginfo_t& info, const ucontext_t& context) {
  Fault fault;
  if (serving || !(fault_of(info, context, fault) || fault_below(info, context, fault))) return false;
  serving = true;
  const bool served = offer(signal, fault);
  serving = false;
  return served;
}

// As if we had never been there: the instruction faults again, a signal that was sent is sent again.
void default_action(int signal, siginfo_t* info) {
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  if (info->si_code <= 0) syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), signal, info);
}

// Runs a handler with the signal mask that the kernel would have given it.
void call(const struct sigaction& action, int signal, siginfo_t* info, ucontext_t* context) {
  sigset_t mask, before;
  sigemptyset(&mask);
  std::memcpy(&mask, &context->uc_sigmask, 8); // the kernel saves 64 signals; the rest of the type is garbage
  sigorset(&mask, &mask, &action.sa_mask);
  if (!(action.sa_flags & SA_NODEFER)) sigaddset(&mask, signal);
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  if (action.sa_flags & SA_SIGINFO)
    action.sa_sigaction(signal, info, context);
  else
    action.sa_handler(signal);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// A handler that raises the signal again while it runs means the one before it.
void pass_on(int signal, siginfo_t* info, ucontext_t* context) {
  Chain& chain = chain_of(signal);
  unsigned& running = passing[signal == SIGBUS];
  const unsigned before = running;
  const bool sent = info->si_code <= 0;
  const unsigned next = sent && before ? before - 1 : chain.count.load(std::memory_order_acquire);
  if (next == 0) return default_action(signal, info);
  const struct sigaction& action = chain.previous[next - 1];
  if (!(action.sa_flags & SA_SIGINFO)) {
    if (action.sa_handler == SIG_IGN && sent) return;
    if (action.sa_handler == SIG_IGN || action.sa_handler == SIG_DFL) return default_action(signal, info);
  }
  running = next;
  call(action, signal, info, context);
  running = before;
}

// The page may have become plain memory, and its hook gone, between the fault and our question. So a fault
// that nobody wants is tried once more; it costs a crash nothing.
bool worth_another_try(const siginfo_t& info) {
  if (info.si_code <= 0 || tried_again == info.si_addr) return false;
  tried_again = info.si_addr;
  return true;
}

void on_signal(int signal, siginfo_t* info, void* opaque) {
  auto* context = static_cast<ucontext_t*>(opaque);
  const int before = errno;
  const bool served = serve(signal, *info, *context);
  errno = before;
  if (served || worth_another_try(*info)) return;
  pass_on(signal, info, context);
  errno = before;
}

bool same(const struct sigaction& a, const struct sigaction& b) {
  return a.sa_sigaction == b.sa_sigaction && a.sa_flags == b.sa_flags;
}

// Caller must hold install_lock. Sent signals wait while a fault is served: their handlers may touch memory
// whose page the driver has locked. Those that a bug of ours would raise do not.
int put_on_top(Chain& chain) {
  struct sigaction ours{}, theirs;
  if (sigaction(chain.signal, nullptr, &theirs) != 0) return errno;
  if (theirs.sa_sigaction == on_signal) return 0;
  const unsigned count = chain.count.load();
  if (!count || !same(chain.previous[count - 1], theirs)) {
    const unsigned at =
        std::min(count, kMostPrevious - 1); // full: the newest gives way, it is the least needed
    chain.previous[at] = theirs;
    chain.count.store(at + 1, std::memory_order_release);
  }
  ours.sa_sigaction = on_signal;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigfillset(&ours.sa_mask);
  for (int raised : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
    sigdelset(&ours.sa_mask, raised);
  return sigaction(chain.signal, &ours, nullptr) ? errno : 0;
}

// The kernel cannot deliver a signal onto an alternate stack whose page is away, and kills the process. One
// that shares its pages with other objects (faulthandler takes its own from malloc) may be managed memory any
// time, so the thread gets another. It is never given back: its thread may be in a handler for as long as it
// lives.
void move_alternate_stack() {
  stack_t now;
  if (sigaltstack(nullptr, &now) != 0 || now.ss_flags & (SS_DISABLE | SS_ONSTACK)) return;
  if (reinterpret_cast<uint64_t>(now.ss_sp) % kPage == 0 && now.ss_size % kPage == 0) return;
  stack_t ours = now;
  ours.ss_size = page_up(now.ss_size) + kPage;
  ours.ss_sp = mmap(nullptr, ours.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (ours.ss_sp == MAP_FAILED) return;
  if (sigaltstack(&ours, nullptr) != 0) munmap(ours.ss_sp, ours.ss_size);
}

} // namespace

void ensure_installed() {
  if (!installed.load(std::memory_order_acquire)) return;
  move_alternate_stack();
  for (Chain& chain : chains) {
    struct sigaction now;
    if (sigaction(chain.signal, nullptr, &now) == 0 && now.sa_sigaction == on_signal) continue;
    std::lock_guard guard(install_lock);
    put_on_top(chain);
  }
}

void add(const Hook& hook) {
  std::lock_guard guard(install_lock);
  for (Slot& slot : slots) {
    if (slot.live || slot.inside) continue;
    for (Chain& chain : chains)
      if (put_on_top(chain)) throw_errno(FailureKind::Unsupported, "cannot install a signal handler");
    slot.hook = hook;
    slot.live = true;
    installed = true;
    return;
  }
  throw Failure(FailureKind::OutOfMemory, "more than 64 open address spaces");
}

void remove(void* context) {
  std::lock_guard guard(install_lock);
  for (Slot& slot : slots) {
    if (!slot.live || slot.hook.context != context) continue;
    slot.live = false;
    for (const Limit limit; slot.inside;) {
      if (!limit.left()) fatal("a fault was not served within %lu s", kLongestWait / 1'000'000'000);
      usleep(1000);
    }
  }
}

void forget_in_child() {
  for (Slot& slot : slots) {
    slot.live = false;
    slot.inside = 0;
  }
  install_lock.reset();
}

} // namespace hmm::segv
