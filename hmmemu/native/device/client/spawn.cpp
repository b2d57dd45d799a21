// Purpose: start the device program with an address layout of its own.
//
// The layout: Linux puts a process's mappings below a gap that it leaves for the stack, as large as
// RLIMIT_STACK allows, at most 5/6 of the address space. With a huge limit at exec the device's
// libraries and stacks lie far below where the CPU process has its own (and so its arrays). Each
// layout is another size of gap. Where the hard limit forbids that, the bottom-up layout of
// ADDR_COMPAT_LAYOUT does nearly as well.
//
// vfork, not fork: a fork would run pthread_atfork handlers (which bring all pages home) and copy
// page tables. Between vfork and exec the child has this process's memory and this thread's stack,
// so it makes system calls only. Signals stay blocked until the device program has its own
// handlers: one that came earlier would run a handler of Python's in the shared memory.
#include "spawn.h"
#include "base/failure.h"
#include "device/protocol.h"
#include <cerrno>
#include <csignal>
#include <cstring>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kAddressSpace = 1ull << 47;
constexpr uint64_t kGaps[kLayouts] = {kAddressSpace / 6 * 5, kAddressSpace / 3 * 2,
                                      kAddressSpace / 2, kAddressSpace / 5 * 2};

struct ChildPlan {
  const char* program;
  char* const* arguments;
  int keep[3];
  uint64_t gap;
  int error; // written by the child
};

[[noreturn]] __attribute__((noinline)) void become_device(ChildPlan& plan) {
  for (int fd : plan.keep)
    fcntl(fd, F_SETFD, 0); // in the child's own table
  rlimit stack;
  getrlimit(RLIMIT_STACK, &stack);
  const bool room = stack.rlim_max == RLIM_INFINITY || stack.rlim_max >= plan.gap;
  stack.rlim_cur = plan.gap;
  if (!room || setrlimit(RLIMIT_STACK, &stack) != 0)
    personality(ADDR_COMPAT_LAYOUT);
  execve(plan.program, plan.arguments, environ);
  plan.error = errno;
  _exit(127);
}

// A pidfd and not just the number: someone else's wait() may reap the child, and numbers are used
// again.
OwnedFd open_pidfd(pid_t pid) {
  OwnedFd fd = OwnedFd::above_standard(int(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    throw hmm::Failure(hmm::FailureKind::Unsupported, std::string("pidfd_open is refused (") +
                                                          strerror(error) +
                                                          "): emulated devices need Linux 5.19");
  }
  return fd;
}

} // namespace

uint64_t stack_limit() {
  rlimit stack;
  return getrlimit(RLIMIT_STACK, &stack) == 0 ? stack.rlim_cur : 8u << 20;
}

Child spawn(const SpawnPlan& plan) {
  std::string words[] = {plan.program, std::to_string(plan.control), std::to_string(plan.channel),
                         std::to_string(plan.vram), std::to_string(plan.index)};
  char* arguments[] = {words[0].data(), words[1].data(), words[2].data(),
                       words[3].data(), words[4].data(), nullptr};
  ChildPlan child{words[0].c_str(),
                  arguments,
                  {plan.control, plan.channel, plan.vram},
                  kGaps[plan.layout % kLayouts],
                  0};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = vfork();
  if (pid == 0)
    become_device(child);
  const int error = pid < 0 ? errno : static_cast<volatile ChildPlan&>(child).error;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid > 0 && error)
    waitpid(pid, nullptr, 0);
  if (error)
    throw hmm::Failure(hmm::FailureKind::Device,
                       "cannot run " + plan.program + ": " + strerror(error));
  return {pid, open_pidfd(pid)};
}

} // namespace hmmemu::device
