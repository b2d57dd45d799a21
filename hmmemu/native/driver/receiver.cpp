#include "driver/receiver.h"
#include "os/segv.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

namespace hmm {

Receiver::Receiver(Driver& driver, Processor p, FaultSource& source, const std::vector<ThreadOnCpu>& pinned)
    : driver_(driver), p_(p), source_(source) {
  pinned_count_ = std::min<size_t>(pinned.size(), kMostPinned);
  std::copy_n(pinned.begin(), pinned_count_, pinned_);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) throw_errno(FailureKind::Error, "cannot create an eventfd");
  cpu_ = pinned_count_ ? pinned_[0].cpu : sched_getcpu();

  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&thread_, nullptr, run, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error) {
    close(wake_fd_);
    throw Failure(FailureKind::Error, std::string("cannot start a fault thread: ") + strerror(error));
  }
  char name[16];
  std::snprintf(name, sizeof name, "hmm-fault-%u", p);
  pthread_setname_np(thread_, name);
}

Receiver::~Receiver() {
  const uint64_t one = 1;
  if (write(wake_fd_, &one, sizeof one) != sizeof one) fatal("cannot stop a fault thread");
  pthread_join(thread_, nullptr);
  close(wake_fd_);
}

void* Receiver::run(void* self) {
  static_cast<Receiver*>(self)->loop();
  return nullptr;
}

// A thread that sleeps owing CPU time to others stays in the queue of its CPU (since Linux 6.12), and is
// woken there; else it goes to an idle CPU. Beside a reader of more weight it always owes. Without the right
// (CAP_SYS_NICE) it is as it was.
void Receiver::weigh_more() {
  if (!pinned_count_) setpriority(PRIO_PROCESS, 0, kNice); // of this thread alone
}

void Receiver::loop() {
  move_to(cpu_);
  weigh_more();
  constexpr unsigned kBatch = 16;
  Fault faults[kBatch];
  pollfd waits[2] = {{source_.fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  for (;;) {
    // A thread that was just served runs at once and has mostly faulted again by now: read first, then wait.
    const unsigned count = source_.read(faults, kBatch);
    for (unsigned i = 0; i < count; ++i) serve(faults[i], true);
    serve_held();
    if (count) {
      follow(faults[count - 1]);
      continue;
    }
    look_for_handlers();
    const timespec wait = time_to_wait();
    const bool limited = held_count_ || driver_.uses_signals();
    if (ppoll(waits, 2, limited ? &wait : nullptr, nullptr) < 0 && errno != EINTR)
      fatal("poll of a userfaultfd: errno %d", errno);
    if (waits[1].revents) return;
    // A device process that died leaves its descriptor in error: nothing more comes, only the end is awaited.
    if (waits[0].revents & (POLLERR | POLLHUP | POLLNVAL)) waits[0].fd = -1;
  }
}

// This thread never sleeps for one fault: it serves those of others meanwhile.
void Receiver::serve(const Fault& fault, bool patient) {
  const uint64_t until = driver_.fault(p_, fault, patient && held_count_ < kMostHeld);
  if (until) held_[held_count_++] = {fault, until};
}

void Receiver::serve_held() {
  if (!held_count_) return;
  const uint64_t now = now_ns();
  for (unsigned i = 0; i < held_count_;) {
    if (held_[i].until > now) {
      ++i;
      continue;
    }
    const Fault fault = held_[i].fault;
    held_[i] = held_[--held_count_];
    serve(fault, false);
  }
}

timespec Receiver::time_to_wait() const {
  const uint64_t now = now_ns();
  uint64_t until = now + uint64_t{kLookForHandlersMs} * 1'000'000;
  for (unsigned i = 0; i < held_count_; ++i) until = std::min(until, held_[i].until);
  const uint64_t left = until > now ? until - now : 0;
  return {time_t(left / 1'000'000'000), long(left % 1'000'000'000)};
}

// A signal handler that somebody installs while pages are away gets their faults, for ever if it returns. To
// look takes three system calls.
void Receiver::look_for_handlers() {
  const uint64_t now = now_ns();
  if (now < next_handlers_) return;
  next_handlers_ = now + kLookForHandlersMs * 1'000'000;
  segv::ensure_installed();
}

void Receiver::follow(const Fault& fault) {
  const int cpu = cpu_of(fault.thread);
  if (cpu < 0 || cpu == cpu_) {
    elsewhere_ = 0;
    return;
  }
  // Clients on several CPUs take turns: do not run after each of them.
  if (pinned_count_ > 1 && ++elsewhere_ < 4) return;
  elsewhere_ = 0;
  move_to(cpu);
}

// The CPU where `thread` ran last, -1 if not known or not worth asking now.
int Receiver::cpu_of(pid_t thread) {
  for (unsigned i = 0; i < pinned_count_; ++i)
    if (pinned_[i].thread == thread) return pinned_[i].cpu;
  const uint64_t now = now_ns();
  if (!thread || pinned_count_ || now < next_look_) return -1;
  next_look_ = now + kLookEvery;
  char path[64], text[1024];
  std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return -1;
  text[n] = 0;
  const char* field = std::strrchr(text, ')'); // the name may hold anything; field 2 ends here
  for (int i = 2; field && i < 39; ++i) field = std::strchr(field + 1, ' ');
  return field ? std::atoi(field + 1) : -1;
}

void Receiver::move_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) == 0) cpu_ = cpu;
}

} // namespace hmm
