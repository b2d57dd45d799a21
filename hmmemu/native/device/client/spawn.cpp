// Purpose: start the device program with an address layout of its own.
//
// The layout: Linux puts a process's mappings below a gap that it leaves for the stack, as large as
// RLIMIT_STACK allows, at most 5/6 of the address space. With a huge limit at exec the device's
// libraries and stacks lie far below where the CPU process has its own (and so its arrays). Each
// layout is another size of gap. Where the hard limit forbids that, the bottom-up layout of
// ADDR_COMPAT_LAYOUT does nearly as well.
//
// clone as vfork does it, not fork: a fork would run pthread_atfork handlers (which bring all pages
// home) and copy page tables. Until exec the child has this process's memory (and a stack of its
// own), so it makes system calls only. Signals stay blocked until the device program has its own
// handlers: one that came earlier would run a handler of Python's in the shared memory. The pidfd
// comes with the child: a number could be used again by the time it is opened, because somebody
// else's wait() may take the child.
#include "spawn.h"
#include "base/mapping.h"
#include "device/protocol.h"
#include <cerrno>
#include <csignal>
#include <cstring>
#include <sched.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/wait.h>

namespace hmmemu::device {
namespace {

constexpr uint64_t kAddressSpace = 1ull << 47;
constexpr uint64_t kGaps[kLayouts] = {kAddressSpace / 6 * 5, kAddressSpace / 3 * 2, kAddressSpace / 2,
                                      kAddressSpace / 5 * 2};

constexpr size_t kChildStack = 64u << 10;
constexpr int kClonePidfd = 0x1000; // CLONE_PIDFD, Linux 5.2

struct ChildPlan {
  const char* program;
  char* const* arguments;
  int keep[4];
  uint64_t gap;
  volatile int error; // written by the child
};

int become_device(void* argument) {
  ChildPlan& plan = *static_cast<ChildPlan*>(argument);
  for (int fd : plan.keep) fcntl(fd, F_SETFD, 0); // in the child's own table
  rlimit stack;
  getrlimit(RLIMIT_STACK, &stack);
  const bool room = stack.rlim_max == RLIM_INFINITY || stack.rlim_max >= plan.gap;
  stack.rlim_cur = plan.gap;
  if (!room || setrlimit(RLIMIT_STACK, &stack) != 0) personality(ADDR_COMPAT_LAYOUT);
  execve(plan.program, plan.arguments, environ);
  plan.error = errno;
  _exit(127);
}

// Returns when the child has become the program or has failed to.
Child clone_child(ChildPlan& plan) {
  const hmm::Mapping stack(kChildStack);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int pidfd = -1;
  const pid_t pid = clone(become_device, stack.as<char>() + kChildStack,
                          CLONE_VM | CLONE_VFORK | kClonePidfd | SIGCHLD, &plan, &pidfd);
  if (pid < 0) plan.error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return {pid, OwnedFd::above_standard(pidfd)};
}

} // namespace

uint64_t stack_limit() {
  rlimit stack;
  return getrlimit(RLIMIT_STACK, &stack) == 0 ? stack.rlim_cur : 8u << 20;
}

Child spawn(const SpawnPlan& plan) {
  std::string words[] = {plan.program,
                         std::to_string(plan.control),
                         std::to_string(plan.channel),
                         std::to_string(plan.vram),
                         std::to_string(plan.bell),
                         std::to_string(plan.index)};
  char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(),
                       words[4].data(), words[5].data(), nullptr};
  ChildPlan child_plan{words[0].c_str(),
                       arguments,
                       {plan.control, plan.channel, plan.vram, plan.bell},
                       kGaps[plan.layout % kLayouts],
                       0};
  Child child = clone_child(child_plan);
  if (child.pid > 0 && child_plan.error) waitpid(child.pid, nullptr, 0);
  if (child_plan.error)
    throw hmm::Failure(hmm::FailureKind::Device,
                       "cannot run " + plan.program + ": " + strerror(child_plan.error));
  if (!child.pidfd) // no CLONE_PIDFD, or no descriptor left; the child ends when its socket closes
    throw hmm::Failure(hmm::FailureKind::Unsupported, "emulated devices need Linux 5.19");
  return child;
}

} // namespace hmmemu::device
