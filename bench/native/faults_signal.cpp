// Purpose: what a page fault between two processors costs at least without userfaultfd: mprotect, SIGSEGV and
// futexes.
//
// Two processes, one array at the same address in both. The CPU's is private anonymous memory of the parent,
// served in the SIGSEGV handler of the thread that faults. The device is a child that maps a memfd; its
// handler posts the fault in shared memory to a thread of the parent on its own CPU, sleeps, and gives itself
// the rights that it is told. To take rights from the device, the parent posts to a thread of the device on
// the parent's CPU and sleeps until it is done. So no thread is ever woken on another CPU. There is one byte
// of state a page, and nothing else.
//
// Correct in the sense of hmmemu: a writer's rights are gone before its page is read, so that no processor
// reads an older copy than another writes. A page without rights is read and written through /proc/self/mem.
// Which access faulted is known: all those of a command are alike. Only one processor runs at a time, so
// nothing is locked.
#include "two_processors.h"
#include <csignal>
#include <fcntl.h>
#include <sys/prctl.h>
#include <thread>

using namespace yardstick;

namespace {

constexpr uint32_t kIdle = 0, kPosted = 1, kDone = 2;

struct Box { // one request at a time: word goes from kIdle to kPosted to kDone
  std::atomic<uint32_t> word;
  uint64_t address;
  int rights;
};
struct Boxes { // shared by both processes
  Control control;
  Box fault, change; // of the device: what it faults on, what rights it shall have
};

Boxes* boxes;
uint8_t* states; // of each page
char* alias;     // the device's memory, in the parent
int vram, memory;

void set(uint64_t address, uint64_t bytes, int rights) {
  must(mprotect(reinterpret_cast<void*>(address), bytes, rights) == 0, "mprotect");
}

// Sleeps until the other side has answered.
void ask(Box& box, uint64_t address, int rights) {
  box.address = address;
  box.rights = rights;
  post(box.word, kPosted);
  wait_for(box.word, kDone);
  box.word = kIdle;
}

void set_on_device(uint64_t address, int rights) { ask(boxes->change, address, rights); }

// ---- the parent ----

void serve_cpu(uint64_t address, bool write) {
  uint8_t& state = states[(address - kArray) / kPage];
  if (state != kNobody) set_on_device(address, write ? PROT_NONE : PROT_READ);
  if (state == kDevice)
    must(pwrite(memory, alias + (address - kArray), kPage, address) == ssize_t(kPage), "pwrite");
  const bool alone = write || state == kNobody;
  set(address, kPage, alone ? PROT_READ | PROT_WRITE : PROT_READ);
  state = alone ? kCpu : kBoth;
}

// Returns the rights that the device may take.
int serve_device(uint64_t address, bool write) {
  uint8_t& state = states[(address - kArray) / kPage];
  const bool alone = write || state == kNobody;
  if (state == kCpu || state == kBoth) set(address, kPage, write ? PROT_NONE : PROT_READ);
  if (state == kCpu)
    must(pread(memory, alias + (address - kArray), kPage, address) == ssize_t(kPage), "pread");
  state = alone ? kDevice : kBoth;
  return alone ? PROT_READ | PROT_WRITE : PROT_READ;
}

void receive(int cpu) {
  pin(cpu);
  for (Box& box = boxes->fault;;) {
    wait_for(box.word, kPosted);
    box.rights = serve_device(box.address, control->command != kRead);
    post(box.word, kDone);
  }
}

void on_cpu_fault(int, siginfo_t* info, void*) {
  const uint64_t page = reinterpret_cast<uint64_t>(info->si_addr) & ~(kPage - 1);
  if (page < kArray || page >= kArray + pages * kPage) _exit(3);
  serve_cpu(page, control->command != kRead);
}

void forget() {
  for (uint64_t i = 0; i < pages; ++i) {
    if (states[i] == kDevice || states[i] == kBoth) set_on_device(kArray + i * kPage, PROT_NONE);
    states[i] = kNobody;
  }
  set(kArray, pages * kPage, PROT_NONE);
  must(madvise(reinterpret_cast<void*>(kArray), pages * kPage, MADV_DONTNEED) == 0, "madvise");
  must(fallocate(vram, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, pages * kPage) == 0, "fallocate");
}

// ---- the device ----

void on_device_fault(int, siginfo_t* info, void*) {
  const uint64_t page = reinterpret_cast<uint64_t>(info->si_addr) & ~(kPage - 1);
  if (page < kArray || page >= kArray + pages * kPage) _exit(3);
  ask(boxes->fault, page, 0);
  set(page, kPage, boxes->fault.rights);
}

void change_rights(int cpu) {
  pin(cpu);
  for (Box& box = boxes->change;;) {
    wait_for(box.word, kPosted);
    set(box.address, kPage, box.rights);
    post(box.word, kDone);
  }
}

// ---- setting up ----

void handle_faults(void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action{};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  must(sigaction(SIGSEGV, &action, nullptr) == 0, "sigaction");
}

void start_device(const int (&cpus)[2]) {
  const pid_t child = fork();
  must(child >= 0, "fork");
  if (child != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  map(kArray, pages * kPage, MAP_SHARED | MAP_FIXED_NOREPLACE, vram);
  set(kArray, pages * kPage, PROT_NONE);
  handle_faults(on_device_fault);
  std::thread(change_rights, cpus[kCpu]).detach();
  device_main(cpus[kDevice]);
}

} // namespace

int main(int count, char** arguments) {
  int cpus[2];
  read_arguments(count, arguments, cpus);
  vram = memfd_create("vram", MFD_CLOEXEC);
  must(vram >= 0 && ftruncate(vram, pages * kPage) == 0, "memfd");
  boxes = static_cast<Boxes*>(map(0, sizeof(Boxes), MAP_SHARED | MAP_ANONYMOUS));
  control = &boxes->control;
  start_device(cpus);
  states = static_cast<uint8_t*>(map(0, pages, MAP_PRIVATE | MAP_ANONYMOUS));
  std::memset(states, kNobody, pages);
  alias = static_cast<char*>(map(0, pages * kPage, MAP_SHARED, vram));
  memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  must(memory >= 0, "/proc/self/mem");
  map(kArray, pages * kPage, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);
  madvise(reinterpret_cast<void*>(kArray), pages * kPage, MADV_NOHUGEPAGE);
  set(kArray, pages * kPage, PROT_NONE);
  handle_faults(on_cpu_fault);
  std::thread(receive, cpus[kDevice]).detach();
  pin(cpus[kCpu]);
  serve(forget);
}
