// Purpose: probes of addresses, of memory that processes share, and of its costs. No state, one thread.
#include "probe.h"

#include "device/packets.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
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

uint64_t open_descriptors() {
  uint64_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) count++;
  return count;
}

// Makes memory full of 0x5A and hands it to the parent; ends by being killed.
[[noreturn]] void offer_memory(int socket, int gpu) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int descriptor = -1;
  char word = 0;
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
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    throw CudaError(0, "no socket for the probe");
  const pid_t child = fork(); // before CUDA is called here
  if (child == 0) offer_memory(ends[1], gpu);
  close(ends[1]);
  char word = 0;
  int descriptor = -1;
  device::receive_packet(ends[0], &word, 1, descriptor);
  if (!word || descriptor < 0) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return {false, "another process cannot pass its memory on", {}};
  }
  const Rig rig(gpu);
  Memory memory = 0;
  const auto take = [&] {
    libcuda().import_memory("take over memory", &memory, reinterpret_cast<void*>(intptr_t(descriptor)), 1);
  };
  take();
  const Rig::Granule early = rig.map(memory);
  const int beside = rig.look(early.at);
  rig.unmake(early);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  take();
  const int afterwards = rig.look(rig.map(memory).at);
  const auto words = [](int seen) { return seen == 0x5A ? "right" : "wrong"; };
  return {beside == 0x5A && afterwards == 0x5A,
          std::string("memory of another process: ") + words(beside) + " while it lives, " +
              words(afterwards) + " when it was killed",
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
