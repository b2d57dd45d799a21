// Purpose: probes of the CPU's memory that a GPU uses: which kinds can be registered, and what becomes of
// them. No state, one thread.
#include "probe.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

constexpr unsigned kDeviceMap = 2; // CU_MEMHOSTREGISTER_DEVICEMAP

// Without a name from here on; -1 and errno.
int temporary_file(const char* folder) {
  std::string name = std::string(folder) + "/hmmemu-probe-XXXXXX";
  const int file = mkstemp(name.data());
  if (file >= 0) unlink(name.c_str());
  return file;
}

// 2 MiB of the file, or private memory (-2), at an address, or anywhere. Null and errno.
void* map_memory(int file, void* at) {
  if (file == -1 || (file >= 0 && ftruncate(file, kProbed) != 0)) return nullptr;
  const int flags = (file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | (at ? MAP_FIXED_NOREPLACE : 0);
  void* const memory = mmap(at, kProbed, PROT_READ | PROT_WRITE, flags, file >= 0 ? file : -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

struct Cost {
  std::vector<uint64_t> pin, unpin;
};

// "yes", or why not.
std::string try_register(void* memory, Cost& cost) {
  if (!memory) return std::string("not here: ") + strerror(errno);
  const Libcuda& cuda = libcuda();
  memset(memory, 1, kProbed);
  try {
    const uint64_t t0 = now_in_ns();
    cuda.pin("register memory", memory, kProbed, kDeviceMap);
    const uint64_t t1 = now_in_ns();
    Address there = kNowhere;
    cuda.host_address("ask for its address", &there, memory, 0);
    const uint64_t t2 = now_in_ns();
    cuda.unpin("give it up", memory);
    cost.pin.push_back(t1 - t0), cost.unpin.push_back(now_in_ns() - t2);
    return there == Address(reinterpret_cast<uint64_t>(memory)) ? "yes" : "at another address";
  } catch (const CudaError& error) {
    return "no (" + std::to_string(error.result) + ")";
  }
}

// Where CUDA has had addresses of its own before.
void* map_where_cuda_was() {
  Address at = kNowhere;
  libcuda().reserve("reserve addresses", &at, kProbed, kProbed, kNowhere, 0);
  libcuda().unreserve("give up addresses", at, kProbed);
  return map_memory(memfd_create("probe", MFD_CLOEXEC), reinterpret_cast<void*>(at));
}

} // namespace

Finding probe_register(int gpu) {
  const Rig rig(gpu);
  Cost cost;
  const auto attempt = [&](int file) { return try_register(map_memory(file, nullptr), cost); };
  const char* const folder = getenv("TMPDIR");
  const std::string memfd = attempt(memfd_create("probe", MFD_CLOEXEC)), own = attempt(-2);
  const std::string again = try_register(map_where_cuda_was(), cost);
  const std::string huge = attempt(memfd_create("probe", MFD_CLOEXEC | MFD_HUGETLB)),
                    tmpfs = attempt(temporary_file("/dev/shm")),
                    disk = attempt(temporary_file(folder ? folder : "/tmp"));
  return {memfd == "yes" && own == "yes" && again == "yes",
          "registered, at its own address: memfd " + memfd + "; private memory " + own +
              "; where CUDA had addresses before " + again + "; huge page " + huge + "; file in /dev/shm " +
              tmpfs + "; file in " + (folder ? folder : "/tmp") + " " + disk,
          {{"register_ns", median(cost.pin)}, {"unregister_ns", median(cost.unpin)}}};
}

// hmmemu registers such a block again before a kernel may use it, so either will do.
Finding probe_punched(int gpu) {
  const Rig rig(gpu);
  const int file = memfd_create("probe", MFD_CLOEXEC);
  void* const memory = map_memory(file, nullptr);
  if (!memory) throw CudaError(0, std::string("no memory for the probe: ") + strerror(errno));
  memset(memory, 1, kProbed);
  Address there = kNowhere;
  libcuda().pin("register memory", memory, kProbed, kDeviceMap);
  libcuda().host_address("ask for its address", &there, memory, 0);
  fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
  memset(memory, 2, 4096); // another frame
  const Rig::Granule granule = rig.make();
  libcuda().copy_within("copy from registered memory", granule.at, there, kProbed, rig.stream());
  libcuda().stream_wait("copy from registered memory", rig.stream());
  const int first = rig.look(granule.at), second = rig.look(granule.at + 4096);
  libcuda().unpin("give it up", memory);
  rig.unmake(granule);
  return {second == 1 && (first == 1 || first == 2),
          first == 1 ? "a registered page whose file was punched: the GPU goes on with the old frame"
                     : "a registered page whose file was punched: the GPU sees byte " + std::to_string(first),
          {{"seen", uint64_t(first)}}};
}

} // namespace hmmemu::cuda
