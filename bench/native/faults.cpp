// Purpose: what a page fault between two processors costs at least: the raw system calls and nothing else.
//
// Two processes, one array at the same address in both. The CPU's is private anonymous memory of the parent;
// the device is a child process that maps a memfd. Each has a userfaultfd and, in the parent, one thread that
// reads its faults, pinned to the CPU on which that processor's thread runs. There is no table of page states
// beyond one byte a page, no growth, no counting, one array and one lock (a fault of one processor must not
// meet one of the other).
//
// Correct in the sense of hmmemu: a writer's page is write-protected before it is copied, and taken away
// before the new owner may write, so that no processor reads an older copy than another writes.
#include "two_processors.h"
#include <csignal>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <mutex>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <thread>

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

using namespace yardstick;

namespace {

int vram, userfaultfds[2];
uint8_t* states; // of each page; guarded by `lock`
char *staging, *zeros;
std::mutex lock;

// ---- userfaultfd ----

// Blocking: its reader sleeps in read, one system call a fault.
int open_userfaultfd() {
  int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
  if (fd < 0) fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY: anybody may */);
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

void forget() {
  for (uint64_t i = 0; i < pages; ++i) {
    std::lock_guard guard(lock);
    zap(kCpu, kArray + i * kPage);
    zap(kDevice, kArray + i * kPage);
    states[i] = kNobody;
  }
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
    close(sockets[0]);
    map(kArray, pages * kPage, MAP_SHARED | MAP_FIXED_NOREPLACE, vram);
    madvise(reinterpret_cast<void*>(kArray), pages * kPage, MADV_NOHUGEPAGE);
    send_descriptor(sockets[1], open_userfaultfd());
    device_main(cpu);
  }
  close(sockets[1]); // so that a device that ends instead is noticed
  userfaultfds[kDevice] = receive_descriptor(sockets[0]);
}

} // namespace

int main(int count, char** arguments) {
  int cpus[2];
  read_arguments(count, arguments, cpus);
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
  serve(forget);
}
