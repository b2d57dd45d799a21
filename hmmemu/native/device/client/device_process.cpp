// Purpose: start, end and restart a device process; requests to it; what it left behind.
// Locks and their order: see the header.
#include "device_process.h"
#include "base/failure.h"
#include "device/lost.h"
#include "fork_guard.h"
#include "keeper_wait.h"
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

namespace hmmemu::device {
namespace {

// Of the channel; its writer may be at work.
std::string text_of(const char (&place)[256]) { return std::string(place, strnlen(place, sizeof place)); }

using hmm::Failure;
using hmm::FailureKind;

constexpr uint64_t kSecond = 1'000'000'000; // ns
constexpr uint64_t kStartLimit = 30 * kSecond, kAskLimit = 30 * kSecond, kLoadLimit = 120 * kSecond;
constexpr int64_t kBlockBytes = 2 << 20;
// For a process that was killed to be gone: it needs a CPU for that, which a loaded machine gives it late.
constexpr int kEndLimitMs = 60'000;
constexpr uint32_t kSpin = 50'000; // ns
constexpr char kKeeperGone[] = "the process that keeps it safe (hmmemu-keeper) has ended: was it killed?";

[[noreturn]] void fail(FailureKind kind, const std::string& text) { throw Failure(kind, text); }

OwnedFd make_memory(const char* name, uint64_t bytes) {
  constexpr unsigned kNoExecSeal = 8; // MFD_NOEXEC_SEAL, Linux 6.3: some systems insist on it
  int made = memfd_create(name, MFD_CLOEXEC | kNoExecSeal);
  if (made < 0 && errno == EINVAL) made = memfd_create(name, MFD_CLOEXEC);
  OwnedFd fd = OwnedFd::above_standard(made);
  if (!fd || ftruncate(fd.get(), off_t(bytes)) != 0)
    fail(FailureKind::OutOfMemory,
         std::string("cannot make the memory of a device (a limit? see `ulimit -f`): ") + strerror(errno));
  return fd;
}

OwnedFd make_bell() {
  OwnedFd fd = OwnedFd::above_standard(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) fail(FailureKind::Error, std::string("cannot create an eventfd: ") + strerror(errno));
  return fd;
}

uint32_t spin_time() {
  cpu_set_t allowed;
  const bool one = sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) == 1;
  return one ? 0 : kSpin;
}

std::string hex(uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

void check_pages(uint64_t address, uint64_t length) {
  constexpr uint64_t kLowest = 65536; // the usual vm.mmap_min_addr: null pointers must fault
  if (address % 4096 || length % 4096 || length == 0 || address < kLowest || address + length > kVramBytes ||
      address + length < address)
    fail(FailureKind::Range, "a device maps whole pages of user addresses, not " + std::to_string(length) +
                                 " bytes at " + hex(address));
}

std::string how_it_ended(int status) {
  if (status >= 0 && WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    const char* const hint = signal == SIGKILL ? ", as the system does when memory runs out" : "";
    return std::string("the device process was killed by signal ") + std::to_string(signal) + " (" +
           strsignal(signal) + ")" + hint;
  }
  if (status >= 0 && WIFEXITED(status))
    return "the device process ended by itself with status " + std::to_string(WEXITSTATUS(status));
  return "the device process has ended, and something else in this program waited for it";
}

} // namespace

// ---- memory and identity ----

DeviceProcess::ChannelMemory::ChannelMemory() : fd(make_memory("hmmemu-channel", kChannelBytes)) {
  void* const memory =
      mmap(nullptr, kChannelBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (memory == MAP_FAILED) fail(FailureKind::OutOfMemory, "cannot map the channel of a device");
  madvise(memory, kChannelBytes, MADV_DONTFORK);
  channel = static_cast<Channel*>(memory);
}

DeviceProcess::ChannelMemory::~ChannelMemory() {
  if (channel) munmap(channel, kChannelBytes);
}

DeviceProcess& DeviceProcess::owned() {
  if (owner_ != getpid())
    fail(FailureKind::Closed,
         "this device belongs to the process that this one was forked from: make an address "
         "space of your own");
  return *this;
}

void DeviceProcess::abandon() {
  for (OwnedFd* fd : {&memory_.fd, &vram_, &bell_, &userfaultfd_, &pidfd_}) fd->reset();
  for (HostFrames& frames : host_frames_) frames.file.reset();
  control_.close();
  port_.shootdown.detach();
  memory_.channel = nullptr; // not mapped here
}

DeviceProcess::DeviceProcess(std::string program, unsigned index, unsigned workers, unsigned layout,
                             Tracker tracker, unsigned gpu)
    : program_(std::move(program)), index_(index), workers_wish_(workers), gpu_(gpu), tracker_(tracker),
      layout_(layout), owner_(getpid()), channel_(memory_.channel),
      vram_(make_memory("hmmemu-vram", kVramBytes)), bell_(make_bell()),
      port_(*new (port_memory_.as<void>()) Port(channel_, bell_.get(), vram_.get())), queue_(channel_) {
  if (workers > kMaxWorkers)
    fail(FailureKind::Range,
         "a device has at most " + std::to_string(kMaxWorkers) + " workers, not " + std::to_string(workers));
  guard_fork(this);
  try {
    start();
  } catch (...) {
    unguard_fork(this);
    throw;
  }
}

DeviceProcess::~DeviceProcess() {
  if (owner_ != getpid()) return;
  try {
    kill();
  } catch (const Failure&) { // it cannot be killed now, but ends when its socket closes
  }
  unguard_fork(this);
}

// ---- start and end ----

// What is left from an ended process and would mislead the next. Output is kept: it is still to be
// taken.
void DeviceProcess::reset_channel() {
  Channel& c = *channel_;
  c.magic = kMagic;
  c.worker_wish = workers_wish_;
  c.parent = owner_;
  c.generation++;
  c.spin_ns = spin_time();
  c.tracker = tracker_;
  c.gpu = gpu_;
  c.distance = distance_;
  c.offered_distance = 0;
  c.stack_limit = stack_limit();
  c.worker_count = c.mailbox_count = 0;
  most_threads_ = threads_with_logs();
  c.block_threads = 0;
  for (Mailbox& box : c.mailboxes) {
    box.request = 0;
    box.done = 0;
  }
  port_.faults.reset();
  c.crash_state = kCrashNone;
  c.no_page_kernels[0] = c.not_kept[0] = 0;
  c.keeper = kNoKeeper;
  c.crash = {};
  c.output.lock = 0;
  if (c.output.head.load() - c.output.tail.load() > kOutputBytes) c.output.tail = c.output.head.load();
  queue_.lose_rest();
}

void DeviceProcess::start() {
  port_.memory_is_home();
  reset_channel();
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    fail(FailureKind::Device, std::string("no socket for the device process: ") + strerror(errno));
  OwnedFd ours = OwnedFd::above_standard(ends[0]), theirs = OwnedFd::above_standard(ends[1]);
  Child child = spawn({program_, theirs.get(), memory_.fd.get(), vram_.get(), bell_.get(), index_, layout_});
  theirs.reset();
  pid_ = child.pid;
  pidfd_.replace(std::move(child.pidfd));
  reaped_ = killed_ = false;
  exit_status_ = -1;
  {
    const std::lock_guard hold(control_lock_);
    control_.open(std::move(ours), pidfd_.get());
  }
  try {
    greet();
    const std::lock_guard hold(control_lock_);
    for (const HostFrames& frames : host_frames_) tell(frames);
  } catch (const Failure&) {
    end_locked();
    throw;
  }
  port_.attach(pidfd_.get());
  queue_.open();
}

void DeviceProcess::greet() {
  const std::lock_guard hold(control_lock_);
  Greeting greeting;
  try {
    greeting = control_.greeting(kStartLimit);
  } catch (const Failure& failure) {
    const Crash& crash = channel_->crash;
    const bool told = channel_->crash_state.load() == kCrashComplete;
    const std::string why(crash.message, told ? strnlen(crash.message, sizeof crash.message) : 0);
    fail(FailureKind::Device, program_ + " did not start: " + (why.empty() ? failure.what() : why));
  }
  if (greeting.answer.status == kStatusUnsupported)
    fail(FailureKind::Unsupported, "emulated devices cannot work here: " + greeting.answer.text);
  if (greeting.answer.status != kStatusOk || bool(greeting.userfaultfd) != (tracker_ == kTrackerUserfaultfd))
    fail(FailureKind::Device, "the device process did not start: " + greeting.answer.text);
  userfaultfd_.replace(std::move(greeting.userfaultfd));
  features_ = greeting.answer.value;
  user_mode_only_ = greeting.user_mode_only;
}

// Takes the exit status if the process has ended. Caller must hold lifecycle_.
bool DeviceProcess::reap() {
  if (reaped_) return true;
  int status = -1;
  pid_t got;
  do got = waitpid(pid_, &status, WNOHANG);
  while (got < 0 && errno == EINTR);
  if (got == 0) return false;
  exit_status_ = got > 0 ? status : -1; // ECHILD: somebody's wait() was faster
  reaped_ = true;
  port_.shootdown.detach();
  return true;
}

void DeviceProcess::wait_for_memory() {
  if (tracker_ == kTrackerLaunch && !wait_for_keeper(vram_.get(), kKeepLimit))
    fail(FailureKind::Device, "the memory of a GPU did not come home within 120 s");
  uint32_t watches = kKeeperWatches;
  if (channel_->keeper.compare_exchange_strong(watches, kNoKeeper)) tell_lost(*channel_, kKeeperGone);
}

void DeviceProcess::end_locked() {
  queue_.close();
  if (reap()) return wait_for_memory();
  killed_ = true;
  syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
  pollfd source{pidfd_.get(), POLLIN, 0};
  const uint64_t deadline = now_ns() + uint64_t(kEndLimitMs) * 1'000'000;
  while (!reap() && now_ns() < deadline) poll(&source, 1, 1000);
  if (!reaped_) fail(FailureKind::Device, "device process " + std::to_string(pid_) + " does not end");
  wait_for_memory();
}

void DeviceProcess::kill() {
  const std::lock_guard hold(owned().lifecycle_);
  end_locked();
}

void DeviceProcess::restart(std::optional<unsigned> layout, std::optional<int64_t> distance) {
  const std::lock_guard hold(owned().lifecycle_);
  if (distance && (*distance % kBlockBytes || (*distance && tracker_ != kTrackerLaunch)))
    fail(FailureKind::Range, "the addresses of a GPU are whole blocks of 2 MiB away, not " +
                                 std::to_string(*distance) +
                                 " bytes, and those of other devices are the CPU's");
  end_locked();
  if (layout) layout_ = *layout;
  if (distance) distance_ = *distance;
  start();
}

bool DeviceProcess::alive() {
  const std::lock_guard hold(owned().lifecycle_);
  return !reap();
}

std::optional<CrashReport> DeviceProcess::crash() {
  const std::lock_guard hold(owned().lifecycle_);
  const bool recorded = channel_->crash_state.load() != kCrashNone;
  if (!reap() || (killed_ && !recorded)) return {};
  CrashReport report;
  report.record = channel_->crash;
  Crash& c = report.record;
  c.kernel[sizeof c.kernel - 1] = c.module[sizeof c.module - 1] = c.message[sizeof c.message - 1] = 0;
  report.exit_status = exit_status_;
  report.from_record = recorded;
  report.message = recorded ? report.record.message : how_it_ended(exit_status_);
  return report;
}

// ---- requests ----

Answer DeviceProcess::ask(Request& request, uint64_t limit_ns) {
  const std::lock_guard hold(owned().control_lock_);
  return control_.ask(request, limit_ns);
}

void DeviceProcess::map(uint64_t address, uint64_t length) {
  const Answer answer = ask_about(kRequestMap, address, length);
  const std::string what = "[" + hex(address) + ", " + hex(address + length) + ")";
  if (answer.status == kStatusTaken)
    fail(FailureKind::Range,
         what + " is in use in the device process (address layout " + std::to_string(layout_) + ")");
  if (answer.status != kStatusOk)
    fail(answer.value == ENOMEM ? FailureKind::OutOfMemory : FailureKind::Device,
         "the device process cannot map " + what + ": " + answer.text);
}

// What the next process is told.
void DeviceProcess::drop_frames(uint64_t address, uint64_t length) {
  const std::lock_guard hold(owned().control_lock_);
  const auto whole = no_fork();
  std::vector<HostFrames> kept;
  const auto keep = [&](const HostFrames& f, uint64_t begin, uint64_t end) {
    if (begin < end) kept.push_back({f.file, begin, end - begin, f.offset + (begin - f.address)});
  };
  for (HostFrames& f : host_frames_) {
    const uint64_t end = f.address + f.length;
    if (!f.length || end <= address || f.address >= address + length) {
      kept.push_back(std::move(f));
      continue;
    }
    keep(f, f.address, address);
    keep(f, address + length, end);
  }
  host_frames_ = std::move(kept);
}

Answer DeviceProcess::ask_about(RequestKind kind, uint64_t address, uint64_t length, bool writes) {
  check_pages(address, length);
  Request request{};
  request.kind = kind;
  request.address = address;
  request.length = length;
  request.writes = writes;
  return ask(request, kAskLimit);
}

uint64_t DeviceProcess::hold(uint64_t address, uint64_t length, bool writes) {
  const Answer answer = ask_about(kRequestHold, address, length, writes);
  if (answer.status == kStatusMissing) return answer.value;
  if (answer.status != kStatusOk)
    fail(answer.value == ENOMEM ? FailureKind::OutOfMemory : FailureKind::Device,
         "the GPU cannot keep the memory at " + hex(address) + ": " + answer.text);
  return 0;
}

void DeviceProcess::release(uint64_t address, uint64_t length) {
  if (const Answer answer = ask_about(kRequestRelease, address, length); answer.status != kStatusOk)
    fail(FailureKind::Device, "the memory at " + hex(address) + " cannot be released: " + answer.text);
}

OwnedFd DeviceProcess::share(uint64_t address) {
  Answer answer = ask_about(kRequestShare, address, 4096);
  if (answer.status != kStatusOk || !answer.descriptor)
    fail(FailureKind::Device, "the GPU's memory at " + hex(address) + " cannot be shared: " + answer.text);
  return std::move(answer.descriptor);
}

void DeviceProcess::unmap(uint64_t address, uint64_t length) {
  check_pages(address, length);
  drop_frames(address, length);
  if (const Answer answer = ask_about(kRequestUnmap, address, length); answer.status != kStatusOk)
    fail(FailureKind::Device, "the device process cannot unmap " + hex(address) + ": " + answer.text);
}

// Caller must hold control_lock_. False: the device may not write that object.
bool DeviceProcess::tell(const HostFrames& frames) {
  Request request{};
  request.kind = kRequestFrames;
  request.address = frames.address;
  request.length = frames.length;
  request.offset = frames.offset;
  request.writes = bool(frames.file);
  return control_.ask(request, kAskLimit, frames.file ? frames.file->get() : -1).status == kStatusOk;
}

bool DeviceProcess::tell_frames(int fd, uint64_t address, uint64_t length, uint64_t offset) {
  if (length) check_pages(address, length);
  HostFrames frames{std::make_shared<OwnedFd>(fcntl(fd, F_DUPFD_CLOEXEC, 3)), address, length, offset};
  if (!*frames.file) fail(FailureKind::Error, std::string("cannot keep a descriptor: ") + strerror(errno));
  const std::lock_guard hold(owned().control_lock_);
  if (!tell(frames)) return false;
  const auto whole = no_fork();
  host_frames_.push_back(std::move(frames));
  return true;
}

void DeviceProcess::forget_frames(uint64_t address, uint64_t length) {
  check_pages(address, length);
  drop_frames(address, length);
  const std::lock_guard hold(control_lock_);
  tell({nullptr, address, length, 0});
}

Loaded DeviceProcess::load(const std::string& path, uint64_t globals, uint64_t room, bool initialise) {
  Request request{};
  if (path.empty() || path.size() > sizeof request.text)
    fail(FailureKind::Range,
         "the path of a module has 1 to " + std::to_string(sizeof request.text) + " characters");
  request.kind = kRequestLoad;
  request.address = globals;
  request.length = room;
  request.initialise = initialise;
  request.text_bytes = uint32_t(path.size());
  memcpy(request.text, path.data(), path.size());
  Answer answer = ask(request, kLoadLimit);
  if (answer.status == kStatusNoMemory) return {"", answer.value};
  if (answer.status != kStatusOk)
    fail(FailureKind::Device, "the device cannot load a kernel module: " + answer.text);
  return {std::move(answer.text), answer.value};
}

void DeviceProcess::unload(uint64_t module) {
  Request request{};
  request.kind = kRequestUnload;
  request.address = module;
  if (const Answer answer = ask(request, kAskLimit); answer.status != kStatusOk)
    fail(FailureKind::Device, answer.text);
}

void DeviceProcess::ping() {
  Request request{};
  request.kind = kRequestPing;
  ask(request, kAskLimit);
}

// ---- launches and output ----

uint64_t DeviceProcess::launch(const LaunchSpec& spec, uint64_t limit_ns) {
  return owned().queue_.launch(spec, limit_ns, pidfd_.get());
}

uint64_t DeviceProcess::marker(uint64_t limit_ns) { return owned().queue_.marker(limit_ns, pidfd_.get()); }

uint64_t DeviceProcess::marker_time(uint64_t ticket) { return owned().queue_.marker_time(ticket); }

WaitResult DeviceProcess::wait(uint64_t ticket, uint64_t limit_ns) {
  const WaitResult result = owned().queue_.wait(ticket, limit_ns, pidfd_.get());
  if (result == WaitResult::dead) alive(); // reaps
  return result;
}

void DeviceProcess::set_link(uint64_t native_unsigned, uint64_t native_signed, uint32_t fallback) {
  owned().channel_->link = {{native_unsigned, native_signed}, fallback, 0};
}

void DeviceProcess::set_page_kernels(const std::string& path) {
  char (&place)[kPathBytes] = owned().channel_->page_kernels;
  if (path.size() >= sizeof place)
    fail(FailureKind::Range,
         "the path of a module has 1 to " + std::to_string(sizeof place - 1) + " characters");
  memcpy(place, path.c_str(), path.size() + 1);
}

std::string DeviceProcess::no_page_kernels() { return text_of(owned().channel_->no_page_kernels); }

std::string DeviceProcess::not_kept() {
  const Channel& c = *owned().channel_;
  const bool gone = keeper_is_done(vram_.get()); // first: what it says is its last word then
  return gone && c.keeper.load() == kKeeperWatches ? kKeeperGone : text_of(c.not_kept);
}

uint32_t DeviceProcess::threads_with_logs() const {
  return std::min(std::max(channel_->block_threads.load(), most_threads_.load()), kMaxBlocks);
}

DeviceProcess::AtomicCounts DeviceProcess::atomic_counts() {
  AtomicCounts found{{}, 0};
  for (uint32_t thread = 0; thread < owned().threads_with_logs(); thread++) {
    const hmm_atomic_log& log = *atomic_log(channel_, thread);
    found.lost += log.lost;
    std::copy_if(std::begin(log.counts), std::end(log.counts), std::back_inserter(found.entries),
                 [](const hmm_atomic_count& entry) { return entry.kernel != 0; });
  }
  return found;
}

void DeviceProcess::clear_atomics() {
  for (uint32_t thread = 0; thread < owned().threads_with_logs(); thread++)
    memset(static_cast<void*>(atomic_log(channel_, thread)), 0, sizeof(hmm_atomic_log));
}

bool DeviceProcess::completed(uint64_t ticket) { return owned().queue_.completed(ticket); }

std::string DeviceProcess::take_output() {
  Output& out = owned().channel_->output;
  const std::lock_guard hold(output_lock_);
  const uint64_t tail = out.tail.load(), head = out.head.load(std::memory_order_acquire);
  const size_t bytes = size_t(std::min<uint64_t>(head - tail, kOutputBytes)), start = tail % kOutputBytes;
  const size_t first = std::min<size_t>(bytes, kOutputBytes - start);
  std::string text(out.text + start, first);
  text.append(out.text, bytes - first);
  out.tail.store(head, std::memory_order_release);
  return text;
}

std::vector<std::pair<pid_t, int>> DeviceProcess::workers() {
  owned();
  std::vector<std::pair<pid_t, int>> list;
  for (uint32_t i = 0; i < std::min(channel_->worker_count, kMaxWorkers); i++)
    list.push_back({channel_->workers[i].tid, channel_->workers[i].cpu});
  return list;
}

} // namespace hmmemu::device
