// Purpose: probes that launch a kernel of kernels/pages.cu: one that works, one that fails. No state, one
// thread.
#include "probe.h"

#include <atomic>
#include <fstream>
#include <iterator>
#include <sys/mman.h>

namespace hmmemu::cuda {
namespace {

constexpr int kPages = 16;

struct Params { // as in page_kernels.cpp
  Address first, second;
  int count, unused;
  Address third;
};

// The image lies behind a table that ends with an empty line (modules.cpp). Both have C linkage.
Function* load(const std::string& path, const char* kernel) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw CudaError(0, path + " cannot be read");
  for (std::string line; std::getline(file, line) && !line.empty();) {}
  const std::string image{std::istreambuf_iterator<char>(file), {}};
  Module* module = nullptr;
  Function* function = nullptr;
  libcuda().module_load("load " + path, &module, image.c_str());
  libcuda().module_function("find a kernel", &function, module, kernel);
  return function;
}

void launch(const Rig& rig, Function* function, Params params) {
  size_t bytes = sizeof params;
  // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
  void* extra[] = {reinterpret_cast<void*>(1), &params, reinterpret_cast<void*>(2), &bytes, nullptr};
  libcuda().launch("launch a kernel", function, kPages, 1, 1, 256, 1, 1, 0, rig.stream(), nullptr, extra);
}

// A word of the CPU's that the stream writes behind kernels (in_flight.h); null where there is no such write.
std::atomic<uint64_t>* make_word(const Rig& rig, Address& there) {
  if (!libcuda().write_behind.there() || !attribute(rig.gpu(), kStreamWrites)) return nullptr;
  void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw CudaError(0, "no memory for the probe");
  libcuda().pin("register a word", page, 4096, 2); // CU_MEMHOSTREGISTER_DEVICEMAP
  libcuda().host_address("ask for its address", &there, page, 0);
  libcuda().write_behind("write a word", rig.stream(), there, 1, 0);
  libcuda().stream_wait("write a word", rig.stream());
  return static_cast<std::atomic<uint64_t>*>(page);
}

} // namespace

Finding probe_kernels(int gpu, const std::string& module) {
  const Rig rig(gpu);
  Function* const gather = load(module, "gather_pages");
  const Rig::Granule from = rig.make(), to = rig.make(), table = rig.make();
  rig.fill(from.at, 7);
  rig.fill(to.at, 8);
  uint64_t pages[kPages];
  for (int i = 0; i < kPages; i++) pages[i] = uint64_t(from.at) / 4096 + uint64_t(2 * i);
  libcuda().copy_in("copy a table", table.at, pages, sizeof pages, rig.stream());
  std::vector<uint64_t> call, whole;
  for (int turn = 0; turn < 51; turn++) {
    const uint64_t t0 = now_in_ns();
    launch(rig, gather, {kNowhere, table.at, kPages, 0, to.at});
    const uint64_t t1 = now_in_ns();
    libcuda().stream_wait("run a kernel", rig.stream());
    call.push_back(t1 - t0), whole.push_back(now_in_ns() - t0);
  }
  const bool right = rig.look(to.at + 4096 * (kPages - 1)) == 7 && rig.look(to.at + 4096 * kPages) == 8;
  return {right,
          right ? "a kernel of NVRTC's is loaded, launched and right"
                : "a kernel of NVRTC's is launched and wrong",
          {{"launch_ns", median(call)}, {"launch_and_wait_ns", median(whole)}}};
}

Finding probe_failure(int gpu, const std::string& module) {
  const Rig rig(gpu);
  Function* const compare = load(module, "find_changed_pages");
  const Rig::Granule granule = rig.make();
  Address there = kNowhere;
  const std::atomic<uint64_t>* const word = make_word(rig, there);
  const bool written = word && word->load() == 1;
  launch(rig, compare, {Address(0x10000), granule.at, kPages, 0, granule.at});
  if (word) libcuda().write_behind.ask(rig.stream(), there, 2, 0);
  const Result first = libcuda().stream_wait.ask(rig.stream());
  size_t free = 0, total = 0;
  const Result then = libcuda().memory_info.ask(&free, &total);
  const uint64_t last = word ? word->load() : 0;
  const char* const behind = !word       ? "no word can be written behind a kernel"
                             : !written  ? "a word behind other work is not written"
                             : last == 1 ? "a word behind it is not written"
                                         : "a word behind it is written all the same";
  return {first == kIllegalAddress && then != kSuccess && (!word || (written && last == 1)),
          "an illegal access gives " + std::to_string(first) + ", and calls afterwards " +
              std::to_string(then) + "; " + behind,
          {{"result", uint64_t(first)}, {"afterwards", uint64_t(then)}, {"word", last}}};
}

} // namespace hmmemu::cuda
