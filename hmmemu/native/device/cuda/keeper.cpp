// Purpose: take descriptors of GPU memory; when the helper is gone, bring home what it alone had. One thread
// in the keeper; in the helper no lock: packets are whole.
#include "keeper.h"

#include "device/lost.h"
#include "device/packets.h"
#include "gpu_memory.h"
#include "host_content.h"
#include "page_bits.h"

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
  enum What : uint32_t { kGranule, kFrames } what;
  uint32_t descriptor; // Fate
  uint64_t address;
  uint64_t length, offset; // kFrames
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
  explicit Keeper(int file) : content_(file) {}

  void collect(int socket) {
    Note note;
    for (int descriptor; device::receive_packet(socket, &note, sizeof note, descriptor) == sizeof note;) {
      if (note.descriptor == kComesAlong && descriptor < 0)
        note_not_kept("its keeper holds a descriptor for every 2 MiB and may open no more than " +
                      std::to_string(limit_of_descriptors()) + " (`ulimit -Hn`)");
      if (note.what == Note::kFrames)
        content_.know(descriptor, note.address, note.length, note.offset);
      else
        collect_granule(note.address, note.descriptor == kGivenUp, descriptor);
    }
  }

  // What cannot be saved leaves all else as it is.
  void rescue() {
    raise_limit_of_descriptors(0);
    for (const auto& [block, descriptor] : granules_) {
      if (first_unlike(block, block + kGranule, kAhead | kViewed, 0) == block + kGranule) continue;
      try {
        if (descriptor < 0) throw CudaError(0, channel->not_kept);
        copy_home(descriptor);
        each_run(block, block + kGranule, is_ahead,
                 [&](uint64_t begin, uint64_t end) { write(begin, end, buffer_ + (begin - block)); });
      } catch (const CudaError& error) {
        note_lost(error);
      }
    }
    if (!lost_.empty()) device::tell_lost(*channel, lost_.c_str());
  }

 private:
  void collect_granule(uint64_t block, bool given_up, int descriptor) {
    if (const auto old = granules_.find(block); old != granules_.end()) {
      if (old->second >= 0) close(old->second);
      granules_.erase(old);
    }
    if (!given_up) granules_[block] = descriptor;
  }

  static bool is_ahead(uint8_t page) { return page & (kAhead | kViewed); }

  void open() {
    const Libcuda& cuda = libcuda();
    cuda.device_get("open the GPU again", &gpu_, int(channel->gpu));
    cuda.context_set("use the GPU again", open_context(gpu_, "make a context on the GPU again"));
    cuda.stream_create("make a stream", &stream_, 1); // CU_STREAM_NON_BLOCKING
    cuda.reserve("reserve addresses", &window_, kGranule, kGranule, kNowhere, 0);
  }

  // The window has it for as long as this lives.
  class Mapping {
   public:
    Mapping(Address window, int descriptor) : window_(window) {
      void* const handle = reinterpret_cast<void*>(intptr_t(descriptor));
      libcuda().import_memory("take over GPU memory", &memory_, handle, 1);
      const Result result = libcuda().map.ask(window_, kGranule, 0, memory_, 0);
      if (result != kSuccess) libcuda().release.ask(memory_);
      check(result, libcuda().map.name(), "map GPU memory that was taken over");
    }
    ~Mapping() {
      libcuda().unmap.ask(window_, kGranule);
      libcuda().release.ask(memory_);
    }
    Mapping(const Mapping&) = delete;

   private:
    const Address window_;
    Memory memory_ = 0;
  };

  void copy_home(int descriptor) {
    if (window_ == kNowhere) open();
    const Libcuda& cuda = libcuda();
    const Mapping taken_over(window_, descriptor);
    AccessRights access;
    access.location.id = gpu_;
    cuda.set_access("open GPU memory that was taken over", window_, kGranule, &access, 1);
    cuda.copy_out("copy GPU memory home", buffer_, window_, kGranule, stream_);
    cuda.stream_wait("copy GPU memory home", stream_);
  }

  // Page by page where not all of it can be written.
  void write(uint64_t begin, uint64_t end, const std::byte* from) {
    try {
      return content_.write(begin, end - begin, from);
    } catch (const CudaError& error) {
      if (end - begin == kPage) return note_lost(error);
    }
    for (uint64_t page = begin; page < end; page += kPage) write(page, page + kPage, from + (page - begin));
  }

  void note_lost(const CudaError& error) {
    if (lost_.empty()) lost_ = error.what(); // what follows may come of it
  }

  HostContent content_;
  std::map<uint64_t, int> granules_; // by block; -1: without a descriptor
  Gpu gpu_ = 0;
  Stream* stream_ = nullptr;
  Address window_ = kNowhere;
  std::byte buffer_[kGranule];
  std::string lost_; // why the first that could not be saved could not
};

// A descriptor of the file that shares no lock with others, and the lock; -1 if it cannot be had.
int lock_file(int file) {
  const int own = open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDWR | O_CLOEXEC);
  flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_len = 1;
  return own >= 0 && fcntl(own, F_OFD_SETLK, &lock) == 0 ? own : -1;
}

[[noreturn]] void run_keeper(int socket, int file) {
  prctl(PR_SET_NAME, "hmmemu-keeper");
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT})
    signal(number, SIG_DFL); // they report for the helper
  raise_limit_of_descriptors(kForCuda);
  close_others(socket, file);
  static Keeper keeper(file);
  keeper.collect(socket);
  if (kill(channel->parent, 0) == 0) keeper.rescue(); // else nobody is left to want it
  channel->keeper = device::kKeeperIsDone;
  _exit(0);
}

} // namespace

const char* start_keeper(int file) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return "no socket for the keeper of GPU memory";
  const int locked = lock_file(file); // the child's from here on: the lock goes with its last descriptor
  if (locked < 0) return "the video memory file cannot be locked: another keeper of it lives";
  channel->keeper = device::kKeeperWatches;
  const pid_t child = fork();
  if (child == 0) run_keeper(ends[1], locked);
  close(ends[1]);
  close(locked);
  to_keeper = ends[0];
  return child > 0 ? nullptr : "the keeper of GPU memory cannot be started";
}

void keep(uint64_t block, int descriptor) {
  if (descriptor < 0 || !send({Note::kGranule, kComesAlong, block, 0, 0}, descriptor))
    send({Note::kGranule, kHasNone, block, 0, 0});
}

void forget(uint64_t block) { send({Note::kGranule, kGivenUp, block, 0, 0}); }

void keep_frames(int descriptor, uint64_t address, uint64_t length, uint64_t offset) {
  send({Note::kFrames, descriptor < 0 ? kGivenUp : kComesAlong, address, length, offset}, descriptor);
}

void note_not_kept(const std::string& why) {
  char (&place)[256] = channel->not_kept;
  if (!*place) snprintf(place, sizeof place, "%s", why.c_str());
}

} // namespace hmmemu::cuda
