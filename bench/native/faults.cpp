// Purpose: what a page fault between two processors costs at least: the raw system calls and nothing else.
//
// Two processes, one array at the same address in both. The CPU's is private anonymous memory of the parent;
// the device is a child process that maps a memfd. Each has a userfaultfd and, in the parent, one thread that
// reads its faults, pinned to the CPU on which that processor's thread runs. There is no table of page states
// beyond one byte a page, no growth, no counting, one array and one lock (a fault of one processor must not
// meet one of the other).
//
// Correct in the sense of hmmemu: a writer's page is write-protected before it is copied, and taken away
// before the new owner may write, so that no processor reads an older copy than another writes. Every value
// is verified.
//
// Usage: faults PAGES CPU_OF_PARENT CPU_OF_DEVICE. Each line on stdin runs every transition once over all
// pages and prints the microseconds per fault, in the order of `Transition`, on one line.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <mutex>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

namespace {

constexpr uint64_t kPage = 4096, kWords = kPage / sizeof(int), kArray = 0x300000000000;
enum Processor : uint8_t { kCpu, kDevice, kNobody, kBoth }; // also the state of a page: who holds it
enum Command : uint32_t { kTouch, kRead, kWrite };

struct Control { // shared by both processes
  std::atomic<uint32_t> request, reply;
  Command command;
  int value;
  double microseconds;
  int64_t sum;
};

uint64_t pages;
int vram, userfaultfds[2];
Control* control;
uint8_t* states; // of each page; guarded by `lock`
char *staging, *zeros;
std::mutex lock;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "faults: %s: %s\n", what, std::strerror(errno));
  _exit(1);
}
void must(bool done, const char* what) {
  if (!done) fail(what);
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  must(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

void* map(uint64_t address, uint64_t bytes, int flags, int fd = -1) {
  void* at = mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  must(at != MAP_FAILED, "mmap");
  return at;
}

// ---- userfaultfd ----

// Blocking: its reader sleeps in read, one system call a fault.
int open_userfaultfd() {
  const int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
  must(fd >= 0, "userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features =
      UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
  must(ioctl(fd, UFFDIO_API, &api) == 0, "UFFDIO_API");
  uffdio_register range{};
  range.range = {kArray, pages * kPage};
  range.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
  must(ioctl(fd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
  return fd;
}

void set_protected(Processor p, uint64_t address, bool on) {
  uffdio_writeprotect request{};
  request.range = {address, kPage};
  request.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  must(ioctl(userfaultfds[p], UFFDIO_WRITEPROTECT, &request) == 0, "UFFDIO_WRITEPROTECT");
}

void install(Processor p, uint64_t address, const void* source, bool writable) {
  uffdio_copy request{};
  request.dst = address;
  request.src = reinterpret_cast<uint64_t>(source);
  request.len = kPage;
  request.mode = writable ? 0 : UFFDIO_COPY_MODE_WP;
  must(ioctl(userfaultfds[p], UFFDIO_COPY, &request) == 0, "UFFDIO_COPY");
}

void wake(Processor p, uint64_t address) {
  uffdio_range range{address, kPage};
  must(ioctl(userfaultfds[p], UFFDIO_WAKE, &range) == 0, "UFFDIO_WAKE");
}

void zap(Processor p, uint64_t address) {
  const int error =
      p == kCpu ? madvise(reinterpret_cast<void*>(address), kPage, MADV_DONTNEED)
                : fallocate(vram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, address - kArray, kPage);
  must(error == 0, "zap");
}

// The content of a present page. A device page is read through the file: mapping it here would cost a fault
// now and a second unmapping when it goes.
const void* content(Processor p, uint64_t address) {
  if (p == kCpu) return reinterpret_cast<const void*>(address);
  must(pread(vram, staging, kPage, address - kArray) == ssize_t(kPage), "pread");
  return staging;
}

// ---- the handler ----

// A message can be late: a thread that wakes for no reason asks again, and may go on before its second
// message is read. So what is done follows from the state alone.
void handle(Processor p, uint64_t address, bool write) {
  std::lock_guard guard(lock);
  const Processor other = p == kCpu ? kDevice : kCpu;
  uint8_t& state = states[(address - kArray) / kPage];
  if (state == p || (state == kBoth && !write)) {
    wake(p, address);
  } else if (state == kNobody) {
    install(p, address, zeros, true);
    state = p;
  } else if (state == kBoth) {
    zap(other, address);
    set_protected(p, address, false);
    state = p;
  } else if (write) {
    set_protected(other, address, true);
    const void* page = content(other, address);
    if (page != staging) std::memcpy(staging, page, kPage);
    zap(other, address);
    install(p, address, staging, true);
    state = p;
  } else {
    set_protected(other, address, true);
    install(p, address, content(other, address), false);
    state = kBoth;
  }
}

void receive(Processor p, int cpu) {
  pin(cpu);
  uffd_msg message;
  while (read(userfaultfds[p], &message, sizeof message) == sizeof message) {
    const auto& fault = message.arg.pagefault;
    handle(p, fault.address & ~(kPage - 1),
           fault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP));
  }
}

// ---- what the processors do ----

// One word of each page, in order. Returns microseconds per page.
double run(Command command, int value, int64_t& sum) {
  auto* words = reinterpret_cast<volatile int*>(kArray);
  sum = 0;
  const double begin = now();
  if (command == kRead)
    for (uint64_t i = 0; i < pages; ++i) sum += words[i * kWords];
  else
    for (uint64_t i = 0; i < pages; ++i) words[i * kWords] = value;
  return (now() - begin) / pages;
}

void wait_for(std::atomic<uint32_t>& word, uint32_t value) {
  for (uint32_t seen; (seen = word.load()) != value;)
    syscall(SYS_futex, &word, FUTEX_WAIT, seen, nullptr, nullptr, 0);
}
void post(std::atomic<uint32_t>& word, uint32_t value) {
  word.store(value);
  syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

[[noreturn]] void device_main(int cpu) {
  pin(cpu);
  for (uint32_t number = 1;; ++number) {
    wait_for(control->request, number);
    control->microseconds = run(control->command, control->value, control->sum);
    post(control->reply, number);
  }
}

// Runs the command on a processor; ends the program unless a read finds `value` in every page.
double measure(Processor p, Command command, int value) {
  int64_t sum;
  double microseconds;
  if (p == kCpu) {
    microseconds = run(command, value, sum);
  } else {
    control->command = command;
    control->value = value;
    const uint32_t number = control->request.load() + 1;
    post(control->request, number);
    wait_for(control->reply, number);
    microseconds = control->microseconds;
    sum = control->sum;
  }
  if (command == kRead && sum != int64_t(pages) * value) {
    std::fprintf(stderr, "faults: processor %d read a sum of %ld and not %ld\n", p, long(sum),
                 long(pages) * value);
    _exit(1);
  }
  return microseconds;
}

void forget() {
  for (uint64_t i = 0; i < pages; ++i) {
    std::lock_guard guard(lock);
    zap(kCpu, kArray + i * kPage);
    zap(kDevice, kArray + i * kPage);
    states[i] = kNobody;
  }
}

void repeat(int value) {
  const double first_cpu = measure(kCpu, kWrite, value);
  const double device_duplicate = measure(kDevice, kRead, value);
  const double cpu_upgrade = measure(kCpu, kWrite, value + 1);
  const double device_migrate = measure(kDevice, kWrite, value + 2);
  const double cpu_duplicate = measure(kCpu, kRead, value + 2);
  const double device_upgrade = measure(kDevice, kWrite, value + 3);
  const double cpu_migrate = measure(kCpu, kWrite, value + 4);
  measure(kCpu, kRead, value + 4);
  forget();
  const double first_device = measure(kDevice, kWrite, value);
  measure(kDevice, kRead, value);
  forget();
  std::printf("%.3f %.3f %.3f %.3f %.3f %.3f %.3f %.3f\n", first_cpu, first_device, device_duplicate,
              cpu_duplicate, cpu_upgrade, device_upgrade, cpu_migrate, device_migrate);
  std::fflush(stdout);
}

// ---- setting up ----

void send_descriptor(int socket, int fd) {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char buffer[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = buffer, message.msg_controllen = sizeof buffer;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  must(sendmsg(socket, &message, 0) == 1, "sendmsg");
}

int receive_descriptor(int socket) {
  char byte;
  iovec data{&byte, 1};
  alignas(cmsghdr) char buffer[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data, message.msg_iovlen = 1;
  message.msg_control = buffer, message.msg_controllen = sizeof buffer;
  must(recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message), "recvmsg");
  int fd;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

// Forks the device. Its userfaultfd must be opened by itself and comes back over a socket.
void start_device(int cpu) {
  int sockets[2];
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
  const pid_t child = fork();
  must(child >= 0, "fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    map(kArray, pages * kPage, MAP_SHARED | MAP_FIXED_NOREPLACE, vram);
    madvise(reinterpret_cast<void*>(kArray), pages * kPage, MADV_NOHUGEPAGE);
    send_descriptor(sockets[1], open_userfaultfd());
    device_main(cpu);
  }
  userfaultfds[kDevice] = receive_descriptor(sockets[0]);
}

} // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: faults PAGES CPU_OF_PARENT CPU_OF_DEVICE\n");
    return 2;
  }
  pages = std::strtoull(arguments[1], nullptr, 10);
  const int cpus[2] = {std::atoi(arguments[2]), std::atoi(arguments[3])};
  vram = memfd_create("vram", MFD_CLOEXEC);
  must(vram >= 0 && ftruncate(vram, pages * kPage) == 0, "memfd");
  control = static_cast<Control*>(map(0, kPage, MAP_SHARED | MAP_ANONYMOUS));
  states = static_cast<uint8_t*>(map(0, pages, MAP_PRIVATE | MAP_ANONYMOUS));
  staging = static_cast<char*>(map(0, 2 * kPage, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE));
  zeros = staging + kPage;
  std::memset(states, kNobody, pages);
  start_device(cpus[kDevice]);
  map(kArray, pages * kPage, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);
  madvise(reinterpret_cast<void*>(kArray), pages * kPage, MADV_NOHUGEPAGE);
  userfaultfds[kCpu] = open_userfaultfd();
  std::thread(receive, kCpu, cpus[kCpu]).detach();
  std::thread(receive, kDevice, cpus[kDevice]).detach();
  pin(cpus[kCpu]);
  for (int value = 1, c; (c = std::getchar()) != EOF;)
    if (c == '\n') repeat(value), value += 10;
  _exit(0); // the device dies with this process
}
