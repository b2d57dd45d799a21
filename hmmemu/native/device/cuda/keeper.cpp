// Purpose: take descriptors of GPU memory; when the helper is gone, bring home what it alone had. One thread
// in the keeper; in the helper, GpuMemory's lock guards the socket.
#include "keeper.h"

#include "device/packets.h"
#include "gpu_memory.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

using device::channel;
using device::kPage;

enum Fate : uint32_t { kGivenUp, kHasNone, kComesAlong };

struct Note {
  uint64_t block;
  uint32_t descriptor; // Fate
};

int to_keeper = -1;

bool send(const Note& note, int descriptor = -1) {
  if (device::send_packet(to_keeper, &note, sizeof note, descriptor)) return true;
  note_not_kept(std::string("its keeper cannot be told of it: ") + strerror(errno));
  return false;
}

// Nothing of the helper but these two.
void close_others(int socket, int file) {
  const unsigned low = unsigned(socket < file ? socket : file),
                 high = unsigned(socket < file ? file : socket);
  if (low > 3) syscall(SYS_close_range, 3u, low - 1, 0u);
  if (high > low + 1) syscall(SYS_close_range, low + 1, high - 1, 0u);
  syscall(SYS_close_range, high + 1, ~0u, 0u);
}

constexpr rlim_t kForCuda =
    256; // descriptors that CUDA may want when memory is saved: devices, pipes, sockets

uint64_t limit_of_descriptors() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  return files.rlim_cur;
}

// As many as may be had, less those.
void raise_limit_of_descriptors(rlim_t less) {
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max - std::min(less, files.rlim_max / 2);
  setrlimit(RLIMIT_NOFILE, &files);
}

class Keeper {
 public:
  Keeper(int file, const std::atomic<uint8_t>* pages, uint8_t ahead)
      : file_(file), pages_(pages), ahead_(ahead) {}

  void collect(int socket) {
    Note note;
    for (int descriptor; device::receive_packet(socket, &note, sizeof note, descriptor) == sizeof note;) {
      if (const auto old = granules_.find(note.block); old != granules_.end()) {
        if (old->second >= 0) close(old->second);
        granules_.erase(old);
      }
      if (note.descriptor == kComesAlong && descriptor < 0)
        note_not_kept("its keeper holds a descriptor for every 2 MiB and may open no more than " +
                      std::to_string(limit_of_descriptors()) + " (`ulimit -Hn`)");
      if (note.descriptor != kGivenUp) granules_[note.block] = descriptor;
    }
  }

  void rescue() {
    std::string why;
    raise_limit_of_descriptors(0);
    for (const auto& [block, descriptor] : granules_) {
      if (next_ahead(block, block + kGranule) == block + kGranule) continue;
      try {
        if (descriptor < 0) throw CudaError(0, channel->not_kept);
        save(block, descriptor);
      } catch (const CudaError& error) {
        why = error.what();
      }
    }
    if (!why.empty()) tell(why);
  }

 private:
  uint64_t next_ahead(uint64_t page, uint64_t end) const {
    while (page < end && (pages_[page / kPage].load() & ahead_) == 0) page += kPage;
    return page;
  }

  void open() {
    const Libcuda& cuda = libcuda();
    Context* context = nullptr;
    cuda.device_get("open the GPU again", &gpu_, int(channel->gpu));
    cuda.context_retain("make a context on the GPU again", &context, gpu_);
    cuda.context_set("use the GPU again", context);
    cuda.stream_create("make a stream", &stream_, 1); // CU_STREAM_NON_BLOCKING
    cuda.reserve("reserve addresses", &window_, kGranule, kGranule, kNowhere, 0);
  }

  void save(uint64_t block, int descriptor) {
    if (!stream_) open();
    const Libcuda& cuda = libcuda();
    Memory memory = 0;
    AccessRights access;
    access.location.id = gpu_;
    cuda.import_memory("take over GPU memory", &memory, reinterpret_cast<void*>(intptr_t(descriptor)), 1);
    cuda.map("map GPU memory that was taken over", window_, kGranule, 0, memory, 0);
    cuda.set_access("open GPU memory that was taken over", window_, kGranule, &access, 1);
    static char buffer[kGranule];
    cuda.copy_out("copy GPU memory home", buffer, window_, kGranule, stream_);
    cuda.stream_wait("copy GPU memory home", stream_);
    for (uint64_t page = block; (page = next_ahead(page, block + kGranule)) < block + kGranule; page += kPage)
      if (pwrite(file_, buffer + (page - block), kPage, off_t(page)) != ssize_t(kPage))
        throw CudaError(0, std::string("write the video memory file: ") + strerror(errno));
    cuda.unmap.ask(window_, kGranule);
    cuda.release.ask(memory);
  }

  // The CPU process reads the record when it has the lock.
  static void tell(const std::string& why) {
    device::Crash& crash = channel->crash;
    if (channel->crash_state.load() != device::kCrashComplete) crash.kind = device::kCrashDevice;
    const size_t used = strnlen(crash.message, sizeof crash.message - 1);
    snprintf(crash.message + used, sizeof crash.message - used, "%sWhat the GPU alone had is lost: %s.",
             used ? ". " : "", why.c_str());
    channel->crash_state = device::kCrashComplete;
  }

  const int file_;
  const std::atomic<uint8_t>* const pages_;
  const uint8_t ahead_;
  std::map<uint64_t, int> granules_; // by block; -1: without a descriptor
  Gpu gpu_ = 0;
  Stream* stream_ = nullptr;
  Address window_ = kNowhere;
};

// A descriptor of the file that shares no lock with others, and the lock; -1 if it cannot be had.
int lock_file(int file) {
  const int own = open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDWR | O_CLOEXEC);
  flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_len = 1;
  return own >= 0 && fcntl(own, F_OFD_SETLK, &lock) == 0 ? own : -1;
}

[[noreturn]] void run_keeper(int socket, int file, const std::atomic<uint8_t>* pages, uint8_t ahead) {
  prctl(PR_SET_NAME, "hmmemu-keeper");
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT})
    signal(number, SIG_DFL); // they report for the helper
  raise_limit_of_descriptors(kForCuda);
  close_others(socket, file);
  static Keeper keeper(file, pages, ahead);
  keeper.collect(socket);
  if (kill(channel->parent, 0) == 0) keeper.rescue(); // else nobody is left to want it
  _exit(0);
}

} // namespace

const char* start_keeper(int file, const std::atomic<uint8_t>* pages, uint8_t ahead) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return "no socket for the keeper of GPU memory";
  const int locked = lock_file(file); // the child's from here on: the lock goes with its last descriptor
  if (locked < 0) return "the video memory file cannot be locked: another keeper of it lives";
  const pid_t child = fork();
  if (child == 0) run_keeper(ends[1], locked, pages, ahead);
  close(ends[1]);
  close(locked);
  to_keeper = ends[0];
  return child > 0 ? nullptr : "the keeper of GPU memory cannot be started";
}

void keep(uint64_t block, int descriptor) {
  if (descriptor < 0 || !send({block, kComesAlong}, descriptor)) send({block, kHasNone});
}

void forget(uint64_t block) { send({block, kGivenUp}); }

void note_not_kept(const std::string& why) {
  char (&place)[256] = channel->not_kept;
  if (!*place) snprintf(place, sizeof place, "%s", why.c_str());
}

} // namespace hmmemu::cuda
