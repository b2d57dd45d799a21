// Purpose: turn a signal or a kernel's own failure into the crash record, and end the process.
//
// Finding the thread: a kernel that runs as a vectorised loop does not know which CUDA thread
// faulted. The handler then runs the faulting block once more with HMM_LAUNCH_PRECISE, from within
// the handler and on the signal stack. The kernel is dead already and what it wrote is undefined,
// so a second run of one block does no further harm; its fault arrives as a nested signal, which
// completes the record. A failure of the kernel's own whose message does not say the thread (fail_kernel) is
// looked for in the same way, without a signal. Under tracker signal, faults that are the driver's to resolve
// are resolved on the way, in the second run as in the first (page_fault.h). The rerun is bounded by
// kRerunSeconds (SIGALRM), and if it does not fail again the record stands as it is, without a thread.
//
// Invariants: only the reporting thread writes the record; everything here is async-signal-safe.
#include "failure.h"
#include "objects.h"
#include "page_fault.h"
#include "registers.h"
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <unistd.h>

thread_local hmm_worker* hmmemu_worker_self = nullptr;

namespace hmmemu::device {
namespace {

constexpr unsigned kRerunSeconds = 2;
constexpr size_t kRoomForKeeper = 1024; // of a message: what became of a GPU's memory
std::atomic<pid_t> reporter{0};
std::atomic<bool> finishing{false};

pid_t this_thread() { return pid_t(syscall(SYS_gettid)); }

Worker* this_worker() { return reinterpret_cast<Worker*>(hmmemu_worker_self); }

[[noreturn]] void stop_here() {
  for (;;) pause();
}

[[noreturn]] void finish() {
  if (finishing.exchange(true)) stop_here();
  channel->crash_state = kCrashComplete;
  futex_wake(channel->queue.complete_bell, INT_MAX);
  _exit(kExitFailure);
}

// The first thread that fails goes on; others stop. A thread that reports already ends the process.
void become_reporter() {
  pid_t nobody = 0;
  const pid_t me = this_thread();
  if (reporter.compare_exchange_strong(nobody, me)) return;
  if (nobody == me) finish();
  stop_here();
}

void copy_text(char* to, size_t room, const char* from) {
  size_t n = 0;
  for (; from && from[n] && n + 1 < room; n++) to[n] = from[n];
  to[n] = 0;
}

hmm_dim3 read(const volatile hmm_dim3& d) { return {d.x, d.y, d.z}; }

void record_kernel(Crash& crash, const Worker* w) {
  crash.tid = this_thread();
  if (!w) return;
  crash.worker = w->abi.index;
  const hmm_kernel* const kernel = w->kernel;
  const hmm_launch* const launch = w->abi.launch;
  if (!kernel || !launch) return;
  crash.in_kernel = 1;
  crash.ticket = w->ticket;
  copy_text(crash.kernel, sizeof crash.kernel, kernel->name);
  crash.grid = launch->grid;
  crash.block_size = launch->block;
  crash.block = read(w->abi.block);
  crash.block_known =
      crash.block.x < crash.grid.x && crash.block.y < crash.grid.y && crash.block.z < crash.grid.z;
  crash.thread_known = w->abi.thread_known != 0;
  crash.thread = read(w->abi.thread);
}

// A launch that no worker of this process runs.
void record_launch(Crash& crash, uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch) {
  crash.in_kernel = 1;
  crash.ticket = ticket;
  copy_text(crash.kernel, sizeof crash.kernel, kernel.name);
  crash.grid = launch.grid;
  crash.block_size = launch.block;
}

bool in_guard(const Worker* w, uint64_t address) {
  if (!w) return false;
  const auto offset = [&](const unsigned char* low) { return address - reinterpret_cast<uint64_t>(low); };
  const uint64_t fiber = offset(w->abi.stacks);
  if (fiber < uint64_t(HMM_MAX_THREADS) * HMM_STACK_BYTES) return fiber % HMM_STACK_BYTES < kPage;
  return offset(w->stack) < kThreadGuard || offset(w->alternate_stack) < kThreadGuard;
}

void record_signal(Crash& crash, int signal, const siginfo_t* info, const ucontext_t* context) {
  crash.kind = kCrashSignal;
  crash.signal = signal;
  crash.code = info->si_code;
  crash.access = access_of(context);
  crash.instruction = instruction_of(context);
  crash.address_known = (signal == SIGSEGV || signal == SIGBUS) && address_known(info);
  crash.address = crash.address_known ? reinterpret_cast<uint64_t>(info->si_addr) : 0;
  crash.stack_overflow = crash.address_known && in_guard(this_worker(), crash.address);
  const Place place = find_object(crash.instruction);
  copy_text(crash.module, sizeof crash.module, place.path);
  crash.module_offset = place.offset;
  record_kernel(crash, this_worker());
}

void rerun_block(Worker& w, const Crash& crash) {
  hmm_launch again = *w.abi.launch;
  again.flags |= HMM_LAUNCH_PRECISE;
  const uint64_t number =
      crash.block.x + uint64_t(crash.grid.x) * (crash.block.y + uint64_t(crash.grid.y) * crash.block.z);
  w.rerun = true;
  w.abi.log = nullptr; // counted the first time
  alarm(kRerunSeconds);
  w.kernel->run(&w.abi, &again, number, number + 1);
}

// Looks for the thread that failed, unless it is known.
void find_thread(Worker* w, const Crash& crash) {
  if (crash.in_kernel && crash.block_known && !crash.thread_known) rerun_block(*w, crash);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const auto* const registers = static_cast<const ucontext_t*>(context);
  if (signal == SIGSEGV && (resolve_page_fault(info, registers) || was_being_mapped(info, registers))) return;
  Crash& crash = channel->crash;
  Worker* const w = this_worker();
  if (w && w->rerun && reporter == this_thread()) {
    if (w->abi.thread_known) record_signal(crash, signal, info, registers);
    finish();
  }
  become_reporter();
  record_signal(crash, signal, info, registers);
  channel->crash_state = kCrashPartial;
  if (!crash.stack_overflow && signal != SIGABRT) find_thread(w, crash);
  finish();
}

void on_alarm(int) {
  if (reporter != 0) finish();
}

} // namespace

void install_fault_handlers() {
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigaction(signal, &action, nullptr);
  struct sigaction alarm_action{};
  alarm_action.sa_handler = on_alarm;
  alarm_action.sa_flags = SA_ONSTACK;
  sigaction(SIGALRM, &alarm_action, nullptr);
}

void use_alternate_stack(unsigned char* low, size_t bytes) {
  stack_t stack{};
  stack.ss_sp = low;
  stack.ss_size = bytes;
  sigaltstack(&stack, nullptr);
}

void fail_kernel(hmm_worker* worker, int failure, const char* message) {
  Worker* const w = reinterpret_cast<Worker*>(worker);
  Crash& crash = channel->crash;
  const bool again = w->rerun && reporter == this_thread();
  if (!again) become_reporter();
  if (!again || w->abi.thread_known) {
    crash.kind = kCrashKernel;
    crash.failure = uint32_t(failure);
    copy_text(crash.message, sizeof crash.message, message);
    record_kernel(crash, w);
  }
  if (!again && failure == HMM_FAIL_ATOMIC) {
    channel->crash_state = kCrashPartial;
    find_thread(w, crash);
  }
  finish();
}

void fail_launch(uint64_t ticket, const char* message) {
  become_reporter();
  channel->crash.kind = kCrashLaunch;
  copy_text(channel->crash.message, sizeof channel->crash.message, message);
  channel->crash.ticket = ticket;
  finish();
}

void fail_on_gpu(uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch, int result,
                 const char* message) {
  become_reporter();
  Crash& crash = channel->crash;
  crash.kind = kCrashGpu;
  crash.code = result;
  copy_text(crash.message, sizeof crash.message - kRoomForKeeper, message);
  record_launch(crash, ticket, kernel, launch);
  finish();
}

void fail_access(uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch, uint64_t address,
                 bool writes) {
  become_reporter();
  Crash& crash = channel->crash;
  crash.kind = kCrashSignal;
  crash.signal = SIGSEGV;
  crash.address = address;
  crash.address_known = 1;
  crash.access = writes ? kAccessWrite : kAccessRead;
  record_launch(crash, ticket, kernel, launch);
  finish();
}

void fail_device(const char* message) {
  become_reporter();
  channel->crash.kind = kCrashDevice;
  copy_text(channel->crash.message, sizeof channel->crash.message, message);
  finish();
}

} // namespace hmmemu::device
