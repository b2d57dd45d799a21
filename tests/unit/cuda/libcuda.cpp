// A stand-in for libcuda.so.1 with memory, streams and modules that work. For tests of hmmemu-cuda where
// there is no GPU.
//
// It is as unkind as the interface allows, so that what only works by luck fails here:
//  * "Device memory" is other memory than the program's (files in memory, one an allocation). It has no
//  rights but while an
//    operation of a stream runs: a plain load or store of the program there is a crash, as it is on a
//    machine.
//  * Work of a stream runs in a thread of its own, `delay_us` late, in order; streams run beside each other,
//  but for those
//    that share a connection: CUDA_DEVICE_MAX_CONNECTIONS of the environment, 8 if it does not say.
//  * A thread of hmmemu-cuda that has no context gets CUDA_ERROR_INVALID_CONTEXT from every function for
//  which cuda.h
//    names that result.
//  * A copy reads and writes pinned host memory only when it runs, so a buffer that is used again too early
//  shows as wrong
//    data. From memory that is not pinned it is copied at the call, as CUDA does. Memory that was pinned and
//    has
//  other frames since is 0xA5 to the GPU, and what it writes there is lost (it goes on with the old frames).
//  * Fresh memory holds 0xA5.
//  * A kernel whose parameters point to memory of the program's fails, unless that was registered for
//  kernels. So does one that finds other frames there than were registered, or touches pages whose frames
//  have gone since (a GPU goes on with those that it has, whatever the program's mapping shows).
// A module is the path of a shared object, as text: one that hmmemu's own compiler made for the emulated
// device, whose kernels run here with the loader of the unit tests (../loader); or any other, and a kernel is
// a C function of it: void name(const void* params, const unsigned dims[6], unsigned shared). A compiled
// kernel that touches what is not mapped fails with CUDA_ERROR_ILLEGAL_ADDRESS, one whose assert fails with
// CUDA's own words on the standard error, and then every call of the process fails, as in a context that is
// broken. What kernels print goes to the standard output when a stream is waited for, and is not flushed.
//
// FAKE_CUDA in the environment: words "key=value" with commas: gpus, bytes (memory a GPU), others (bytes of
// it that other programs have), delay_us, kernel_us (a program's kernels alone, later still), full (a kernel
// fills the GPU: no other runs beside it), gate (a file: they begin when it is gone), launched (a file that
// gets the name of each when it is launched), bad (the result of kernels of this name), version, mode, novmm,
// atomics (pcie, none, all: what the link to the CPU carries), coherent, nopointers, nowrites (no memory
// operations of streams), bus, otherwise (registered memory is elsewhere for kernels), refuse (BEGIN-END:
// addresses that are asked for in this range are not given, nor others there; if END is the lower one, all
// but those between the two), elsewhere (none are), strict (such a call is an error; else other addresses are
// given), noshare, unshared (memory has no descriptors, and the GPU says so, or not),
// fail=NAME:result[:first[:last]] (these calls of a function, or launches of a kernel, from 1), failing
// (a file: while it is there, and only calls from then on count). `lock` guards the tables; each stream has
// its own for its queue.
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <algorithm>
#include <dlfcn.h>
#include <fcntl.h>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "hmmemu/abi.h"

// ../loader/loader.cpp
extern "C" int loader_run_here(const hmm_kernel*, const hmm_launch*, char*, size_t);
extern "C" size_t loader_printed(char*, size_t);
extern thread_local hmm_worker* hmmemu_worker_self;

namespace {

enum {
  kInvalid = 1,
  kNoMemory = 2,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kNoImage = 200,
  kNoContext = 201,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kAssert = 710,
  kAlreadyRegistered = 712,
  kLaunchFailed = 719,
  kNotSupported = 801
};
using Address = unsigned long long;

std::string setting(const std::string& key, const std::string& otherwise = "") {
  const char* all = getenv("FAKE_CUDA");
  const std::string words = std::string(",") + (all ? all : "") + ",";
  const size_t at = words.find("," + key + "=");
  if (at == std::string::npos) return otherwise;
  const size_t begin = at + key.size() + 2;
  return words.substr(begin, words.find(',', begin) - begin);
}
long number(const char* key, long otherwise) {
  const std::string text = setting(key);
  return text.empty() ? otherwise : atol(text.c_str());
}

std::mutex lock;
std::map<std::string, int> calls;
int broken = 0;              // the result of a kernel that failed
std::string printed, failed; // by kernels; failed assertions

// The result that this call of a function is to have.
int wanted(const std::string& function) {
  std::lock_guard guard(lock);
  if (broken) return broken;
  const std::string fail = setting("fail"), failing = setting("failing");
  if (fail.rfind(function + ":", 0) != 0) return 0;
  if (!failing.empty() && access(failing.c_str(), F_OK) != 0) return 0;
  const int nth = ++calls[function];
  int result = 0, first = 1, last = INT_MAX;
  sscanf(fail.c_str() + function.size() + 1, "%d:%d:%d", &result, &first, &last);
  return nth >= first && nth <= last ? result : 0;
}
bool is_helper() {
  static const bool helper = [] {
    char name[4096] = {};
    return readlink("/proc/self/exe", name, sizeof name - 1) > 0 && strstr(name, "hmmemu-cuda");
  }();
  return helper; // any other process is CuPy's, which sees to that itself
}
// Of the static kind, as modules want the loader's beside it to be.
[[gnu::tls_model("initial-exec")]] thread_local const void* context = nullptr;

#define HERE                                                                                                 \
  if (const int result = wanted(__func__)) return result
#define HERE_IN_CONTEXT                                                                                      \
  HERE;                                                                                                      \
  if (!context && is_helper()) return kNoContext

// ---- memory ----

struct Allocation {
  int fd;
  bool shared; // may have descriptors
  size_t bytes;
  unsigned references; // handle and mappings
};
struct Mapped {
  size_t bytes;
  Address memory;
  int rights;
};
std::map<Address, Allocation> allocations;
std::map<Address, size_t> reservations;
std::map<Address, Mapped> mappings;
struct Pinned {
  size_t bytes;
  bool mapped;                  // for kernels
  std::vector<uint64_t> frames; // that the GPU has: those of now
};
std::map<Address, Pinned> pinned;
Address next_memory = 1;
size_t used = 0;
unsigned running = 0; // operations of streams

void let_go(Address memory) {
  Allocation& a = allocations.at(memory);
  if (--a.references) return;
  close(a.fd);
  used -= a.bytes;
  allocations.erase(memory);
}

void set_rights(bool open) {
  for (const auto& [at, m] : mappings)
    mprotect(reinterpret_cast<void*>(at), m.bytes, open ? m.rights : PROT_NONE);
}

// Whether [at, at + bytes) is device memory that is mapped and may be used.
bool usable(Address at, size_t bytes) {
  for (const Address end = at + bytes; at < end;) {
    auto m = mappings.upper_bound(at);
    if (m == mappings.begin()) return false;
    --m;
    if (at >= m->first + m->second.bytes || m->second.rights != (PROT_READ | PROT_WRITE)) return false;
    at = m->first + m->second.bytes;
  }
  return true;
}

std::vector<uint64_t> frames(Address at, size_t bytes);

bool is_pinned(const void* host, size_t bytes) {
  const auto at = reinterpret_cast<Address>(host);
  for (const auto& [begin, p] : pinned)
    if (at >= begin && at + bytes <= begin + p.bytes) return true;
  return false;
}

// Whether what the GPU has pinned there is still what the program has. Memory that is not pinned is.
bool is_as_pinned(const void* host, size_t bytes) {
  std::lock_guard guard(lock);
  const auto at = reinterpret_cast<Address>(host);
  auto p = pinned.upper_bound(at);
  if (p == pinned.begin() || at >= (--p)->first + p->second.bytes || p->second.frames.empty()) return true;
  const size_t first = (at - p->first) / 4096, last = (at + bytes - 1 - p->first) / 4096;
  const std::vector<uint64_t> now = frames(p->first + first * 4096, (last - first + 1) * 4096);
  return std::equal(now.begin(), now.end(), p->second.frames.begin() + ptrdiff_t(first));
}

// Memory of the program that kernels may use.
bool is_mapped(Address at, size_t bytes) {
  const auto host = pinned.upper_bound(at);
  return host != pinned.begin() && std::prev(host)->second.mapped &&
         at + bytes <= std::prev(host)->first + std::prev(host)->second.bytes;
}

std::map<Address, size_t> variables; // of modules
bool is_variable(Address at, size_t bytes) {
  const auto found = variables.find(at);
  return found != variables.end() && found->second == bytes;
}

// The frames of pages, as far as this process may know them (as root); else zeros.
std::vector<uint64_t> frames(Address at, size_t bytes) {
  std::vector<uint64_t> words(bytes / 4096);
  const int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (file < 0 || pread(file, words.data(), words.size() * 8, off_t(at / 4096 * 8)) < 0)
    std::fill(words.begin(), words.end(), 0);
  if (file >= 0) close(file);
  for (uint64_t& word : words) word &= (1ull << 55) - 1;
  return words;
}

// Whether a page there is a regular file's, mapped shared, of another file system than tmpfs and hugetlbfs.
// NVIDIA's kernel module pins what is registered for as long as it is (FOLL_LONGTERM,
// kernel-open/nvidia/os-mlock.c), and Linux refuses that for such pages since 6.5 (commit 8ac268436e6d,
// "mm/gup: disallow FOLL_LONGTERM GUP-nonfast writing to file-backed mappings").
bool shows_regular_file(Address at, size_t bytes) {
  FILE* const maps = fopen("/proc/self/maps", "re");
  if (!maps) return false;
  bool found = false;
  char line[4400];
  while (!found && fgets(line, sizeof line, maps)) {
    Address begin, end;
    char rights[5], place[64], name[4200] = "";
    struct statfs system;
    if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %4199s", &begin, &end, rights, name) < 3) continue;
    if (rights[3] != 's' || begin >= at + bytes || end <= at) continue;
    snprintf(place, sizeof place, "/proc/self/map_files/%llx-%llx", begin, end);
    const bool known =
        statfs(place, &system) == 0 || statfs(name, &system) == 0; // the first is for root only
    found = known && system.f_type != 0x01021994 && system.f_type != 0x958458f6;
  }
  fclose(maps);
  return found;
}

// Whether a kernel may use the memory that its parameters point to: nothing of the program's but what was
// pinned for it, and has no other frames than then. `gone`: pages there that have none now.
bool may_use(const std::vector<char>& block, std::vector<Address>& gone) {
  if (!is_helper()) return true; // a program's own kernels
  std::lock_guard guard(lock);
  for (size_t i = 0; i + 8 <= block.size(); i += 8) {
    Address at;
    memcpy(&at, &block[i], 8);
    auto place = reservations.upper_bound(at);
    if (place != reservations.begin() && at < std::prev(place)->first + std::prev(place)->second) continue;
    auto host = pinned.upper_bound(at);
    if (host != pinned.begin() && at < std::prev(host)->first + std::prev(host)->second.bytes) {
      const auto& [begin, p] = *std::prev(host);
      if (!p.mapped) return false;
      const std::vector<uint64_t> now = frames(begin, p.bytes);
      for (size_t page = 0; page < now.size(); ++page) {
        if (now[page] == p.frames[page]) continue;
        if (now[page]) return false;
        gone.push_back(begin + page * 4096);
      }
      continue;
    }
    unsigned char resident;
    if (mincore(reinterpret_cast<void*>(at / 4096 * 4096), 4096, &resident) == 0)
      return false; // other memory
  }
  return true;
}

// Kernels run here: one that touched a page without a frame has made it another than the GPU has.
bool touched_any(const std::vector<Address>& gone) {
  return std::any_of(gone.begin(), gone.end(), [](Address page) { return frames(page, 4096)[0] != 0; });
}

// ---- streams ----

void wait_us(long time) {
  if (time > 0) usleep(useconds_t(time)); // of nothing, too, it takes some 50
}

// Streams that share one run their work in the order in which it was given.
struct Connection {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t given = 0, turn = 0;

  static Connection& next() {
    const char* const wish = getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    static const int count = std::clamp(wish ? atoi(wish) : 8, 1, 32);
    static auto* const all = new std::vector<Connection>(size_t(count)); // never deleted: threads use them
    static std::atomic<unsigned> used{0};
    return (*all)[used++ % unsigned(count)];
  }
  uint64_t take() {
    std::lock_guard hold(mutex);
    return given++;
  }
  void wait_for(uint64_t number) {
    std::unique_lock hold(mutex);
    changed.wait(hold, [&] { return turn == number; });
  }
  void pass_on() {
    std::lock_guard hold(mutex);
    turn++;
    changed.notify_all();
  }
};

struct Stream {
  Connection& connection = Connection::next();
  std::mutex mutex;
  std::condition_variable changed;
  struct Work {
    uint64_t number; // of the connection's
    std::function<void()> act;
  };
  std::deque<Work> queue;
  bool busy = false, end = false;
  std::thread thread{[this] { run(); }};
  static inline std::mutex all_lock;
  static inline std::vector<Stream*> all; // but for those that were destroyed

  Stream() {
    std::lock_guard hold(all_lock);
    all.push_back(this);
  }
  ~Stream() {
    std::lock_guard hold(all_lock);
    std::erase(all, this);
  }
  void wait() { // never with `lock`, which comes first
    std::unique_lock hold(mutex);
    changed.wait(hold, [&] { return queue.empty() && !busy; });
  }
  void run() {
    std::unique_lock hold(mutex);
    for (;;) {
      changed.wait(hold, [&] { return end || !queue.empty(); });
      if (queue.empty()) return;
      const Work work = queue.front();
      queue.pop_front();
      busy = true;
      hold.unlock();
      connection.wait_for(work.number);
      wait_us(number("delay_us", 500));
      if (!is_broken()) { // a context that is broken does nothing any more
        begin_operation(true);
        work.act();
        begin_operation(false);
      }
      connection.pass_on();
      hold.lock();
      busy = false;
      changed.notify_all();
    }
  }
  static bool is_broken() {
    std::lock_guard guard(lock);
    return broken != 0;
  }
  static void begin_operation(bool begin) {
    std::lock_guard guard(lock);
    if (begin ? running++ == 0 : --running == 0) set_rights(begin);
  }
  void add(std::function<void()> act) {
    std::lock_guard hold(mutex);
    queue.push_back({connection.take(), std::move(act)});
    changed.notify_all();
  }
};

// ---- kernels that fail ----

struct sigaction otherwise; // what SIGSEGV does outside of kernels

void on_illegal_access(int, siginfo_t*, void*) {
  if (hmmemu_worker_self)
    hmmemu_worker_self->services->fail(hmmemu_worker_self, kIllegalAddress, "illegal address");
  sigaction(SIGSEGV, &otherwise, nullptr); // the access is tried again
}

void catch_illegal_accesses() {
  static const bool once = [] {
    struct sigaction action = {};
    action.sa_sigaction = on_illegal_access;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGSEGV, &action, &otherwise) == 0;
  }();
  (void)once;
}

// Streams run theirs beside each other.
void run_compiled(const hmm_kernel* kernel, const hmm_launch& launch) {
  catch_illegal_accesses();
  char message[4096];
  const int failure = loader_run_here(kernel, &launch, message, sizeof message);
  hmmemu_worker_self = nullptr;
  std::lock_guard guard(lock);
  static std::vector<char> text(8u << 20); // the loader forgets what has no room
  printed.append(text.data(), loader_printed(text.data(), text.size()));
  if (failure == HMM_FAIL_ASSERT) failed += std::string(message) + "\n";
  if (failure)
    broken = failure == HMM_FAIL_ASSERT ? kAssert : failure == kIllegalAddress ? failure : kLaunchFailed;
  if (!strcmp(kernel->name, "bad")) broken = int(number("bad", 0));
}

// As whatever waits for the GPU does.
void show_text() {
  std::lock_guard guard(lock);
  fwrite(printed.data(), 1, printed.size(), stdout);
  fwrite(failed.data(), 1, failed.size(), stderr);
  printed.clear(), failed.clear();
}

struct Function {
  std::string name;
  const hmm_kernel* compiled = nullptr;
  void (*plain)(const void*, const unsigned*, unsigned) = nullptr;
};

void note_launch(const std::string& name) {
  const std::string path = setting("launched");
  FILE* const file = path.empty() ? nullptr : fopen(path.c_str(), "a");
  if (!file) return;
  fprintf(file, "%s\n", name.c_str());
  fclose(file);
}

bool is_gpu(int gpu) { return gpu >= 0 && gpu < number("gpus", 1); }

// ---- addresses ----

bool is_refused(Address at, size_t bytes) {
  Address begin = 0, end = 0;
  const std::string range = setting("refuse");
  if (sscanf(range.c_str(), "%llx-%llx", &begin, &end) != 2) return false;
  return begin < end ? at < end && begin < at + bytes : at < end || begin < at + bytes;
}

bool take_addresses(Address at, size_t bytes) {
  return mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED;
}

// Upwards from where this process has its own, each time from behind the last: what is given up is not given
// again at once. 0: there are none.
Address find_addresses(size_t bytes, size_t alignment) {
  constexpr Address kFirst = 1ull << 36, kEnd = 1ull << 47, kStep = 1ull << 30;
  static Address next = kFirst + Address(getpid() % 1024) * kStep;
  alignment = std::max(alignment, size_t(2 << 20));
  for (int round = 0; round < 2; round++, next = kFirst)
    for (; next + bytes <= kEnd; next += kStep) {
      const Address at = (next + alignment - 1) / alignment * alignment;
      if (is_refused(at, bytes) || !take_addresses(at, bytes)) continue;
      next = at + bytes;
      return at;
    }
  return 0;
}

} // namespace

extern "C" {

int cuInit(unsigned) {
  HERE;
  return number("gpus", 1) ? 0 : kNoDevice;
}
int cuGetErrorName(int result, const char** name) {
  static const std::map<int, const char*> names = {{kInvalid, "CUDA_ERROR_INVALID_VALUE"},
                                                   {kNoMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                   {kNoDevice, "CUDA_ERROR_NO_DEVICE"},
                                                   {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}};
  const auto found = names.find(result);
  *name = found == names.end() ? nullptr : found->second;
  return *name ? 0 : kInvalid;
}
int cuGetErrorString(int result, const char** text) {
  static const std::map<int, const char*> texts = {
      {kInvalid, "invalid argument"},
      {kNoMemory, "out of memory"},
      {kNoDevice, "no CUDA-capable device is detected"},
      {803, "system has unsupported display driver / cuda driver combination"}};
  const auto found = texts.find(result);
  *text = found == texts.end() ? nullptr : found->second;
  return *text ? 0 : kInvalid;
}
int cuDriverGetVersion(int* version) {
  HERE;
  *version = int(number("version", 12040));
  return 0;
}
int cuDeviceGetCount(int* count) {
  HERE;
  *count = int(number("gpus", 1));
  return 0;
}
int cuDeviceGet(int* gpu, int index) {
  HERE;
  if (!is_gpu(index)) return kInvalidDevice;
  *gpu = index;
  return 0;
}
int cuDeviceGetName(char* name, int room, int gpu) {
  HERE;
  snprintf(name, size_t(room), "Fake GPU \"%d\"", gpu);
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
  HERE;
  *bytes = size_t(number("bytes", 1 << 30));
  return 0;
}
int cuDeviceGetPCIBusId(char* bus, int room, int gpu) {
  HERE;
  snprintf(bus, size_t(room), "%s", setting("bus", "0000:65:00.0").c_str());
  return is_gpu(gpu) && room >= 13 ? 0 : kInvalidDevice;
}
#ifndef FAKE_CUDA_12 // a driver of CUDA 12 does not have it
int cuDeviceGetHostAtomicCapabilities(unsigned* masks, const int* operations, unsigned count, int gpu) {
  HERE;
  if (!is_gpu(gpu) || !masks || !operations || !count) return kInvalid;
  const std::string which = setting("atomics", "pcie"); // pcie, none, all
  for (unsigned i = 0; i < count; i++) {
    if (operations[i] < 0 || operations[i] > 12) return kInvalid;
    const unsigned pcie = operations[i] == 0   ? 0b11111  // integer add: signed, unsigned, reduction; 32, 64
                          : operations[i] == 8 ? 0b11011  // exchange
                          : operations[i] == 9 ? 0b111011 // compare-and-swap, 128 bits, too
                                               : 0;
    masks[i] = which == "all" ? 0x7f : which == "pcie" ? pcie : 0;
  }
  return 0;
}
#endif
int cuDeviceGetAttribute(int* value, int attribute, int gpu) {
  HERE;
  if (!is_gpu(gpu)) return kInvalidDevice;
  switch (attribute) {
  case 20:
    *value = int(number("mode", 0));
    return 0;
  case 41:
    *value = 1;
    return 0;
  case 103:
    *value = !number("noshare", 0);
    return 0;
  case 75:
    *value = 9;
    return 0;
  case 97:
    *value = 232448;
    return 0;
  case 86:
    *value = setting("atomics") == "all";
    return 0;
  case 91:
  case 99:
    *value = !number("nopointers", 0);
    return 0;
  case 100:
    *value = int(number("coherent", 0));
    return 0;
  case 102:
    *value = !number("novmm", 0);
    return 0;
  case 122:
    *value = !number("nowrites", 0);
    return 0;
  default:
    *value = 0;
    return 0;
  }
}
int cuDevicePrimaryCtxRetain(void** context, int gpu) {
  HERE;
  if (!is_gpu(gpu)) return kInvalidDevice;
  *context = reinterpret_cast<void*>(uintptr_t(gpu) + 1);
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
  HERE;
  return 0;
}
int cuCtxSetCurrent(void* wanted_context) {
  HERE;
  context = wanted_context;
  return 0;
}
int cuCtxGetCurrent(const void** current) {
  HERE;
  *current = context;
  return 0;
}
int cuCtxPushCurrent_v2(const void* wanted_context) { // over none or itself
  HERE;
  if (!wanted_context || (context && context != wanted_context)) return kNoContext;
  context = wanted_context;
  return 0;
}
int cuCtxPopCurrent_v2(const void** last) {
  HERE;
  *last = context;
  return context ? 0 : kNoContext;
}
int cuCtxSynchronize() {
  HERE;
  if (!context) return kNoContext;
  std::lock_guard hold(Stream::all_lock);
  for (Stream* const stream : Stream::all) stream->wait();
  return 0;
}
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  *total = size_t(number("bytes", 1 << 30));
  *free_bytes = *total - used - size_t(number("others", 0));
  return 0;
}
int cuMemGetAllocationGranularity(size_t* bytes, const void*, int) {
  HERE;
  *bytes = 2 << 20;
  return 0;
}
int cuMemAddressReserve(Address* got, size_t bytes, size_t alignment, Address hint, unsigned long long) {
  HERE;
  if (!bytes || bytes % 4096 || hint % 4096 || alignment & (alignment - 1)) return kInvalid;
  std::lock_guard guard(lock);
  const bool here = hint && !number("elsewhere", 0) && !is_refused(hint, bytes);
  if (!here || !take_addresses(hint, bytes)) { // a hint, no more
    if (hint && number("strict", 0)) return kNoMemory;
    hint = find_addresses(bytes, alignment);
  }
  if (!hint) return kNoMemory;
  *got = hint;
  reservations[*got] = bytes;
  return 0;
}
int cuMemAddressFree(Address at, size_t bytes) {
  HERE;
  std::lock_guard guard(lock);
  const auto found = reservations.find(at);
  if (found == reservations.end() || found->second != bytes) return kInvalid;
  for (const auto& [begin, m] : mappings)
    if (begin >= at && begin < at + bytes) return kInvalid;
  munmap(reinterpret_cast<void*>(at), bytes);
  reservations.erase(found);
  return 0;
}
int cuMemCreate(Address* memory, size_t bytes, const void* properties, unsigned long long) {
  HERE;
  if (!bytes || bytes % (2 << 20)) return kInvalid;
  const bool shared = properties && static_cast<const int*>(properties)[1] == 1;
  if (shared && number("unshared", 0)) return kNotSupported;
  std::lock_guard guard(lock);
  if (used + bytes + size_t(number("others", 0)) > size_t(number("bytes", 1 << 30))) return kNoMemory;
  const int fd = memfd_create("fake-gpu", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, off_t(bytes)) != 0) return kNoMemory;
  void* const fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  memset(fresh, 0xA5, bytes);
  munmap(fresh, bytes);
  used += bytes;
  *memory = next_memory++;
  allocations[*memory] = {fd, shared, bytes, 1};
  return 0;
}
int cuMemRelease(Address memory) {
  HERE;
  std::lock_guard guard(lock);
  if (!allocations.count(memory)) return kInvalid;
  let_go(memory);
  return 0;
}
int cuMemExportToShareableHandle(void* fd, Address memory, int type, unsigned long long) {
  HERE;
  std::lock_guard guard(lock);
  if (type != 1 || !allocations.count(memory) || !allocations[memory].shared) return kInvalid;
  *static_cast<int*>(fd) = dup(allocations[memory].fd);
  return 0;
}
int cuMemImportFromShareableHandle(Address* memory, void* handle, int type) {
  HERE;
  if (type != 1) return kInvalid;
  const int fd = dup(int(reinterpret_cast<intptr_t>(handle)));
  const off_t bytes = lseek(fd, 0, SEEK_END);
  if (fd < 0 || bytes <= 0) return kInvalid;
  std::lock_guard guard(lock);
  *memory = next_memory++;
  used += size_t(bytes);
  allocations[*memory] = {fd, true, size_t(bytes), 1};
  return 0;
}
int cuMemMap(Address at, size_t bytes, size_t offset, Address memory, unsigned long long) {
  HERE;
  std::lock_guard guard(lock);
  const auto found = allocations.find(memory);
  if (found == allocations.end() || offset || bytes != found->second.bytes || at % (2 << 20)) return kInvalid;
  auto range = reservations.upper_bound(at);
  if (range == reservations.begin()) return kInvalid;
  --range;
  if (at + bytes > range->first + range->second || mappings.count(at)) return kInvalid;
  if (mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, found->second.fd, 0) ==
      MAP_FAILED)
    return kNoMemory;
  found->second.references++;
  mappings[at] = {bytes, memory, PROT_NONE};
  return 0;
}
int cuMemUnmap(Address at, size_t bytes) {
  HERE;
  std::lock_guard guard(lock);
  const auto found = mappings.find(at);
  if (found == mappings.end() || found->second.bytes != bytes) return kInvalid;
  mmap(reinterpret_cast<void*>(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
       -1, 0);
  let_go(found->second.memory);
  mappings.erase(found);
  return 0;
}
int cuMemSetAccess(Address at, size_t bytes, const void*, size_t) {
  HERE;
  std::lock_guard guard(lock);
  const Address end = at + bytes; // whole mappings, side by side
  for (Address next = at; next < end; next += mappings.at(next).bytes)
    if (!mappings.count(next) || next + mappings.at(next).bytes > end) return kInvalid;
  for (; at < end; at += mappings.at(at).bytes) mappings.at(at).rights = PROT_READ | PROT_WRITE;
  if (running) set_rights(true);
  return 0;
}
int cuMemHostRegister_v2(void* host, size_t bytes, unsigned flags) {
  HERE_IN_CONTEXT;
  const auto at = reinterpret_cast<Address>(host);
  if (!bytes) return kInvalid;
  if (at % 4096 || bytes % 4096) { // hmmemu has whole pages
    if (flags & 2) return kInvalid;
    std::lock_guard guard(lock);
    pinned[at] = {bytes, false, {}};
    return 0;
  }
  if (madvise(host, bytes, MADV_POPULATE_WRITE))
    return kInvalid; // all of it is to be memory that may be written
  if (shows_regular_file(at, bytes)) return kInvalid;
  std::lock_guard guard(lock);
  for (const auto& [begin, size] : reservations)
    if (at < begin + size && begin < at + bytes) return kInvalid; // the GPU's own
  for (const auto& [begin, p] : pinned)
    if (at < begin + p.bytes && begin < at + bytes) return kAlreadyRegistered;
  pinned[at] = {bytes, (flags & 2) != 0, frames(at, bytes)};
  return 0;
}
int cuMemHostGetDevicePointer_v2(Address* there, void* host, unsigned flags) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  const auto found = pinned.find(reinterpret_cast<Address>(host));
  if (flags || found == pinned.end() || !found->second.mapped) return kInvalid;
  *there = found->first + (number("otherwise", 0) ? 4096 : 0);
  return 0;
}
int cuMemHostUnregister(void* host) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  return pinned.erase(reinterpret_cast<Address>(host)) ? 0 : kInvalid;
}
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  if (!usable(to, bytes)) return kInvalid;
  if (is_pinned(from, bytes)) {
    stream->add([=] { // what has other frames by now is not what the GPU reads
      if (is_as_pinned(from, bytes))
        memcpy(reinterpret_cast<void*>(to), from, bytes);
      else
        memset(reinterpret_cast<void*>(to), 0xA5, bytes);
    });
  } else {
    const auto* first = static_cast<const char*>(from);
    const std::vector<char> now(first, first + bytes);
    stream->add([=] { memcpy(reinterpret_cast<void*>(to), now.data(), bytes); });
  }
  return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  if (!usable(from, bytes)) return kInvalid;
  stream->add([=] { // ... nor where it writes
    if (is_as_pinned(to, bytes)) memcpy(to, reinterpret_cast<const void*>(from), bytes);
  });
  return 0;
}
int cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  if (!is_variable(from, bytes)) return kInvalid;
  memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return 0;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  for (const Address at : {to, from})
    if (!is_variable(at, bytes) && !usable(at, bytes) && !is_mapped(at, bytes)) return kInvalid;
  stream->add([=] { memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); });
  return 0;
}
int cuMemsetD8Async(Address at, unsigned char value, size_t bytes, Stream* stream) {
  HERE_IN_CONTEXT;
  std::lock_guard guard(lock);
  if (!usable(at, bytes)) return kInvalid;
  stream->add([=] { memset(reinterpret_cast<void*>(at), value, bytes); });
  return 0;
}
int cuStreamCreate(Stream** stream, unsigned) {
  HERE_IN_CONTEXT;
  *stream = new Stream;
  return 0;
}
int cuStreamSynchronize(Stream* stream) {
  HERE_IN_CONTEXT;
  stream->wait();
  show_text();
  std::lock_guard guard(lock);
  return broken;
}
// "The write is preceded by a system-wide memory fence"; the address is the GPU's.
int cuStreamWriteValue64_v2(Stream* stream, Address at, uint64_t value, unsigned flags) {
  HERE;
  std::lock_guard guard(lock);
  if (flags || at % 8 || number("nowrites", 0) || (!usable(at, 8) && !is_mapped(at, 8))) return kInvalid;
  stream->add([=] { reinterpret_cast<std::atomic<uint64_t>*>(at)->store(value); });
  return 0;
}
int cuStreamQuery(Stream* stream) {
  HERE_IN_CONTEXT;
  std::lock_guard hold(stream->mutex);
  return stream->queue.empty() && !stream->busy ? 0 : kNotReady;
}
int cuStreamDestroy_v2(Stream* stream) {
  HERE_IN_CONTEXT;
  {
    std::lock_guard hold(stream->mutex);
    stream->end = true;
    stream->changed.notify_all();
  }
  stream->thread.join();
  delete stream;
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  HERE_IN_CONTEXT;
  static void* const promoted = [] { // modules look for the loader's functions among global names
    Dl_info self;
    dladdr(reinterpret_cast<void*>(cuInit), &self);
    return dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  }();
  *module = promoted ? dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL) : nullptr;
  return *module ? 0 : kNoImage;
}
int cuModuleUnload(void* module) {
  HERE_IN_CONTEXT;
  return dlclose(module) ? kInvalid : 0;
}
int cuModuleGetFunction(Function** function, void* module, const char* name) {
  HERE_IN_CONTEXT;
  Function found;
  found.name = name;
  if (const auto table = reinterpret_cast<const hmm_module* (*)()>(dlsym(module, "hmmemu_module"))) {
    for (uint32_t i = 0; i < table()->kernel_count; i++)
      if (!strcmp(table()->kernels[i].name, name)) found.compiled = &table()->kernels[i];
  } else {
    found.plain = reinterpret_cast<decltype(found.plain)>(dlsym(module, name));
  }
  if (!found.compiled && !found.plain) return kNotFound;
  *function = new Function(found);
  return 0;
}
int cuModuleGetGlobal_v2(Address* address, size_t* bytes, void* module, const char* name) {
  HERE_IN_CONTEXT;
  const auto table = reinterpret_cast<const hmm_module* (*)()>(dlsym(module, "hmmemu_module"));
  for (uint32_t i = 0; table && i < table()->global_count; i++) {
    const hmm_global& found = table()->globals[i];
    if (strcmp(found.name, name)) continue;
    std::lock_guard guard(lock);
    *address = reinterpret_cast<Address>(found.address);
    variables[*address] = *bytes = found.bytes;
    return 0;
  }
  return kNotFound;
}
int cuFuncGetAttribute(int* value, int attribute, const Function* function) {
  HERE_IN_CONTEXT;
  if (attribute > 1) return kInvalid;
  const hmm_kernel* const compiled = function->compiled;
  *value = attribute  ? (compiled ? int(compiled->static_shared) : 0)
           : compiled ? int(compiled->max_threads)
                      : 1024;
  return 0;
}
int cuFuncSetAttribute(Function*, int attribute, int value) {
  HERE_IN_CONTEXT;
  return attribute == 8 && value >= 0 ? 0 : kInvalid;
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, Stream* stream, void** params, void** extra) {
  HERE_IN_CONTEXT;
  if (params || !extra || extra[0] != reinterpret_cast<void*>(1) || extra[2] != reinterpret_cast<void*>(2) ||
      extra[4])
    return kInvalid; // the parameter block is what hmmemu has
  if (!gx || !gy || !gz || !bx || !by || !bz || uint64_t(bx) * by * bz > 1024) return kInvalid;
  const auto* first = static_cast<const char*>(extra[1]);
  const std::vector<char> block(first, first + *static_cast<size_t*>(extra[3]));
  const Function kernel = *function;
  if (const int result = wanted(kernel.name)) return result;
  const bool of_the_helper = kernel.name.find("_pages") != std::string::npos; // kernels/pages.cu
  if (!of_the_helper) note_launch(kernel.name);
  stream->add([=] {
    const std::string gate = of_the_helper ? "" : setting("gate");
    wait_us(of_the_helper ? 0 : number("kernel_us", 0));
    for (int ms = 0; ms < 20000 && !gate.empty() && access(gate.c_str(), F_OK) == 0; ++ms) usleep(1000);
    static std::mutex whole_gpu;
    std::unique_lock fills(whole_gpu, std::defer_lock);
    if (number("full", 0)) fills.lock();
    const auto refuse = [] {
      std::lock_guard guard(lock);
      broken = kIllegalAddress;
    };
    std::vector<Address> gone;
    if (!may_use(block, gone)) return refuse();
    alignas(64) char aligned[4096];
    memcpy(aligned, block.data(), block.size());
    if (kernel.plain) {
      const unsigned dims[6] = {gx, gy, gz, bx, by, bz};
      kernel.plain(aligned, dims, shared);
    } else {
      const hmm_launch launch = {{gx, gy, gz}, {bx, by, bz}, shared, 0, aligned, 0, nullptr, 0, 0};
      run_compiled(kernel.compiled, launch);
    }
    if (touched_any(gone)) refuse();
  });
  return 0;
}

} // extern "C"
