// Purpose: bring a device process up on the descriptors that the CPU process gave it, and end it with its
// parent.
//
// The CPU process starts it with a stack limit that moves this process's own mappings away from the CPU
// process's (client/spawn.cpp), and with all signals blocked.
//
// It ends when its parent ends, in whatever way: the socket closes, or the parent's pidfd becomes
// readable, or the parent's process id is not the one it was. The socket alone is not enough,
// because children that the parent forked hold it too; PR_SET_PDEATHSIG follows the parent's thread
// and not its process.
#include "start.h"
#include "agent.h"
#include "device.h"
#include "failure.h"
#include "objects.h"
#include "page_fault.h"
#include "shootdown.h"
#include "video_memory.h"
#include "workers.h"
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <iterator>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

namespace hmmemu::device {

Channel* channel = nullptr;

namespace {

constexpr int kParentLookMs = 500;

[[noreturn]] void give_up(const char* text) {
  fprintf(stderr, "hmmemu-device: %s\n", text);
  _exit(2);
}

Channel* map_channel(int fd) {
  void* const memory =
      mmap(nullptr, kChannelBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (memory == MAP_FAILED) give_up("cannot map the channel");
  auto* const mapped = static_cast<Channel*>(memory);
  if (mapped->magic != kMagic) give_up("the channel is of another version of hmmemu: reinstall it");
  return mapped;
}

// Keeps those that were given and the error output.
void close_strangers(const Descriptors& given) {
  int keep[] = {given.control, given.channel, given.vram, given.bell};
  std::sort(std::begin(keep), std::end(keep));
  unsigned from = 3;
  for (int fd : keep) {
    if (unsigned(fd) > from) syscall(SYS_close_range, from, unsigned(fd) - 1, 0u);
    from = unsigned(fd) + 1;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  syscall(SYS_close_range, from, ~0u, 0u);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(null, 0);
  dup2(null, 1);
  close(null);
}

void set_limits() {
  rlimit stack;
  if (getrlimit(RLIMIT_STACK, &stack) == 0) {
    stack.rlim_cur = channel->stack_limit;
    setrlimit(RLIMIT_STACK, &stack);
  }
  // Threads of libraries (CUDA's): their default was taken from the limit that this process started with,
  // which is no size that can be had.
  pthread_attr_t usual;
  if (pthread_attr_init(&usual) == 0) {
    pthread_attr_setstacksize(&usual, kThreadStack);
    pthread_setattr_default_np(&usual);
    pthread_attr_destroy(&usual);
  }
  const rlimit no_core{0, 0}; // it would hold the video memory
  setrlimit(RLIMIT_CORE, &no_core);
}

// Ctrl-C goes to the whole group, and so may a request to end: the CPU process decides what they
// mean for the device, which ends with it in any case.
void set_signals() {
  for (int number : {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGPIPE}) signal(number, SIG_IGN);
  install_fault_handlers();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void watch_parent(int control) {
  const pid_t parent = channel->parent;
  pollfd sources[2] = {{control, POLLRDHUP, 0}, {int(syscall(SYS_pidfd_open, parent, 0)), POLLIN, 0}};
  while (getppid() == parent) {
    if (poll(sources, 2, kParentLookMs) <= 0) continue;
    if (sources[0].revents & (POLLHUP | POLLRDHUP | POLLERR) || sources[1].revents & POLLIN) break;
  }
  _exit(0);
}

const char* start_tracker(Agent& agent, int bell) {
  if (channel->tracker == kTrackerUserfaultfd) {
    agent.userfault = open_userfault();
    if (agent.userfault.fd < 0) return agent.userfault.error.c_str();
  } else if (!post_faults_to(bell)) {
    return "the CPU process gave no bell";
  }
  return open_video_memory(agent.vram, agent.userfault);
}

const char* start_threads() {
  if (!start_shootdown()) return "cannot start the shootdown threads";
  return start_workers(channel->worker_wish);
}

} // namespace

int run(const Descriptors& given) {
  close_strangers(given);
  channel = map_channel(given.channel);
  close(given.channel);
  set_limits();
  set_signals();
  prctl(PR_SET_NAME, "hmmemu-device");
  static Agent agent{given.control, given.vram, {}};
  refresh_objects();
  const char* error = start_tracker(agent, given.bell);
  if (!error) error = start_threads();
  if (!greet(agent, error) || error) return 1;
  if (!start_thread("agent", kThreadStack, answer_requests, &agent)) return 1;
  watch_parent(given.control);
}

} // namespace hmmemu::device
