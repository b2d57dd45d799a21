// Purpose: probes of addresses, of memory that processes share, and of its costs. No state, one thread.
#include "probe.h"

#include "base/pages.h"
#include "device/packets.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

// Whether CUDA gives a block these addresses, again and again after a mapping has held them.
int count_given(uint64_t block, int turns) {
  int given = 0;
  for (int turn = 0; turn < turns; turn++) {
    void* const at = reinterpret_cast<void*>(block);
    if (mmap(at, kProbed, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
             0) != at)
      return given;
    munmap(at, kProbed);
    Address got = kNowhere;
    libcuda().reserve("reserve addresses", &got, kProbed, kProbed, Address(block), 0);
    given += got == Address(block);
    libcuda().unreserve("give up addresses", got, kProbed);
  }
  return given;
}

std::string of(int count, int all, const char* what) {
  return std::to_string(count) + " of " + std::to_string(all) + " " + what;
}

std::string in_hex(Address at) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(at));
  return text;
}

uint64_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  uint64_t count = 0;
  for (std::string line; std::getline(maps, line);) count++;
  return count;
}

uint64_t open_descriptors() {
  uint64_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) count++;
  return count;
}

// A process that makes memory full of 0x5A when it is asked to, and hands it on; ends by being killed.
class Maker {
 public:
  // Before CUDA is called here.
  explicit Maker(int gpu) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
      throw CudaError(0, "no socket for the probe");
    child_ = fork();
    if (child_ == 0) offer(ends[1], gpu);
    close(ends[1]);
    socket_ = ends[0];
  }
  ~Maker() {
    end();
    close(socket_);
  }
  Maker(const Maker&) = delete;

  int take() const { // a descriptor, or -1
    char word = 0;
    int descriptor = -1;
    device::send_packet(socket_, &word, 1);
    device::receive_packet(socket_, &word, 1, descriptor);
    return word ? descriptor : -1;
  }
  void end() {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = -1;
  }

 private:
  [[noreturn]] static void offer(int socket, int gpu);
  pid_t child_ = -1;
  int socket_ = -1;
};

void Maker::offer(int socket, int gpu) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int descriptor = -1;
  char word = 0;
  device::receive_packet(socket, &word, 1, descriptor);
  try {
    const Rig rig(gpu);
    const Rig::Granule granule = rig.make();
    rig.fill(granule.at, 0x5A);
    libcuda().export_memory("export 2 MiB", &descriptor, granule.memory, 1, 0);
    word = 1;
  } catch (const CudaError& error) {
    fprintf(stderr, "%s\n", error.what());
  }
  device::send_packet(socket, &word, 1, descriptor);
  for (;;) pause();
}

} // namespace

Finding probe_addresses(int gpu) {
  const Rig rig(gpu);
  constexpr int kBlocks = 32, kTurns = 50;
  auto* const area = static_cast<char*>(
      mmap(nullptr, (kBlocks + 1) * kProbed, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  const uint64_t first = (reinterpret_cast<uint64_t>(area) + kProbed - 1) / kProbed * kProbed;
  munmap(area, (kBlocks + 1) * kProbed);
  const uint64_t heap = (reinterpret_cast<uint64_t>(sbrk(0)) + (1u << 30)) / kProbed * kProbed;
  int mapped = 0, above = 0;
  for (int i = 0; i < kBlocks; i++) mapped += count_given(first + uint64_t(i) * kProbed, 1);
  for (int i = 0; i < kBlocks; i++) above += count_given(heap + uint64_t(i) * kProbed, 1);
  const int again = count_given(first, kTurns);
  return {mapped == kBlocks && above == kBlocks && again == kTurns,
          "addresses that were asked for: " + of(mapped, kBlocks, "blocks where mmap maps, ") +
              of(above, kBlocks, "above the heap, ") + of(again, kTurns, "times the same block"),
          {}};
}

// As GpuMemory does it: all of the arena is asked for at once, then held by a mapping, and blocks of it get
// memory.
Finding probe_arena(int gpu) {
  const Rig rig(gpu);
  constexpr uint64_t kArena = 256ull << 30; // what a space has unless told otherwise (hmmemu/options.py)
  constexpr int kBlocks = 16;
  constexpr Address kWish{hmm::kArenasBegin};
  void* const place = reinterpret_cast<void*>(hmm::kArenasBegin);
  Address got = kNowhere;
  const uint64_t t0 = now_in_ns();
  const Result result = libcuda().reserve.ask(&got, kArena, kProbed, kWish, 0);
  const uint64_t t1 = now_in_ns();
  if (result != kSuccess)
    return {false, "256 GiB at " + in_hex(kWish) + ": refused (" + std::to_string(result) + ")", {}};
  libcuda().unreserve("give up addresses", got, kArena);
  if (got != kWish)
    return {false, "256 GiB at " + in_hex(kWish) + ": others were given, at " + in_hex(got), {}};
  if (mmap(place, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
           0) != place)
    return {false, "256 GiB at " + in_hex(kWish) + ": CUDA keeps addresses that were given up", {}};
  const uint64_t mappings = count_mappings();
  std::vector<Rig::Granule> granules;
  for (uint64_t i = 0; i < kBlocks; i++) {
    const uint64_t at = hmm::kArenasBegin + (i < kBlocks / 2 ? i * kProbed : kArena - (i + 1) * kProbed);
    munmap(reinterpret_cast<void*>(at), kProbed);
    granules.push_back(rig.make(Address(at)));
    if (granules.back().at != Address(at)) break;
    rig.fill(Address(at), 0x33);
  }
  const uint64_t more = count_mappings() - mappings;
  int right = 0, held = 0;
  for (const Rig::Granule& granule : granules) {
    right += rig.look(granule.at) == 0x33;
    rig.unmake(granule);
    void* const at = reinterpret_cast<void*>(granule.at);
    held += mmap(at, kProbed, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
                 -1, 0) == at;
  }
  return {right == kBlocks && held == kBlocks,
          "256 GiB at " + in_hex(kWish) + ": given; memory at " + of(right, kBlocks, "blocks, ") +
              of(held, kBlocks, "free again afterwards"),
          {{"reserve_all_ns", t1 - t0}, {"mappings_of_16_granules", more}}};
}

Finding probe_memory(int gpu) {
  const Rig rig(gpu);
  const Libcuda& cuda = libcuda();
  AllocationProperties properties;
  properties.location.id = gpu;
  AccessRights rights;
  rights.location.id = gpu;
  std::vector<uint64_t> create, share, place, end;
  bool right = true;
  for (int turn = 0; turn < 15; turn++) {
    Memory memory = 0;
    Address at = kNowhere;
    int descriptor = -1;
    const uint64_t t0 = now_in_ns();
    cuda.create("allocate 2 MiB", &memory, kProbed, &properties, 0);
    const uint64_t t1 = now_in_ns();
    cuda.export_memory("export 2 MiB", &descriptor, memory, 1, 0);
    const uint64_t t2 = now_in_ns();
    cuda.reserve("reserve addresses", &at, kProbed, kProbed, kNowhere, 0);
    cuda.map("map 2 MiB", at, kProbed, 0, memory, 0);
    cuda.set_access("open 2 MiB", at, kProbed, &rights, 1);
    const uint64_t t3 = now_in_ns();
    rig.fill(at, static_cast<unsigned char>(turn));
    right &= rig.look(at + (kProbed - 4096)) == turn;
    close(descriptor);
    const uint64_t t4 = now_in_ns();
    rig.unmake({at, memory});
    end.push_back(now_in_ns() - t4);
    create.push_back(t1 - t0), share.push_back(t2 - t1), place.push_back(t3 - t2);
  }
  return {right,
          right ? "2 MiB of memory hold what was stored" : "2 MiB of memory do not hold what was stored",
          {{"create_ns", median(create)},
           {"export_ns", median(share)},
           {"reserve_map_open_ns", median(place)},
           {"give_up_ns", median(end)}}};
}

Finding probe_export(int gpu) {
  Maker first(gpu), second(gpu);
  const int left = first.take();
  if (left < 0) return {false, "another process cannot pass its memory on", {}};
  first.end(); // and nobody has a context now, as when a keeper is needed
  const Rig rig(gpu);
  const auto look = [&](int descriptor) -> std::string {
    if (descriptor < 0) return "not to be had"; // by a GPU for one process only, for example
    Memory memory = 0;
    try {
      libcuda().import_memory("take over memory", &memory, reinterpret_cast<void*>(intptr_t(descriptor)), 1);
      return rig.look(rig.map(memory).at) == 0x5A ? "right" : "wrong";
    } catch (const CudaError& error) {
      return std::string("lost (") + error.what() + ")";
    }
  };
  const std::string afterwards = look(left), beside = look(second.take());
  return {beside == "right" && afterwards == "right",
          "memory of another process: " + afterwards + " when it was killed, " + beside + " while it lives",
          {}};
}

Finding probe_descriptors(int gpu) {
  const Rig rig(gpu);
  constexpr uint64_t kGranules = 16;
  rig.unmake(rig.make());
  const uint64_t before = open_descriptors();
  std::vector<Rig::Granule> granules;
  for (uint64_t i = 0; i < kGranules; i++) granules.push_back(rig.make());
  const uint64_t after = open_descriptors();
  for (const Rig::Granule& granule : granules) rig.unmake(granule);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  size_t bytes = 0;
  libcuda().device_memory("ask for the memory", &bytes, gpu);
  const uint64_t wanted = bytes / kProbed;
  return {wanted < files.rlim_max,
          "a keeper of all memory needs " + std::to_string(wanted) + " descriptors, and may open " +
              std::to_string(files.rlim_max),
          {{"opened_by_16_granules", after - before}, {"hard_limit", files.rlim_max}, {"wanted", wanted}}};
}

} // namespace hmmemu::cuda
