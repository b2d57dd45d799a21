// What hmmemu assumes of NVIDIA's driver, as small checks that tell what is really so.
//
// A process runs one probe, so that one which crashes or hangs hides no other; who starts it sets the limit
// (hmmemu/gpu_probes.py). Nothing here is used by a device.
#pragma once
#include "libcuda.h"
#include <string>
#include <utility>
#include <vector>

namespace hmmemu::cuda {

inline constexpr uint64_t kProbed = 2u << 20; // a granule

struct Finding {
  bool ok = true;    // as hmmemu wants it, or has another way
  std::string words; // what was found
  std::vector<std::pair<std::string, uint64_t>> figures;
};

// JSON: {"ok": true, "found": "...", "figures": {...}}. Throws CudaError; an unknown name is one, too.
// `module`: the file of kernels/pages.cu, for probes that launch.
std::string run_probe(const std::string& name, int gpu, const std::string& module);

// A GPU with a stream, in this process.
class Rig {
 public:
  explicit Rig(int index);
  struct Granule {
    Address at;
    Memory memory;
  };
  // `wish`: where it is to be; it may be elsewhere.
  Granule make(Address wish = kNowhere) const;
  Granule map(Memory memory, Address wish = kNowhere) const;
  void unmake(Granule granule) const;
  void fill(Address at, unsigned char value) const;
  // The byte that the page there is full of; -1: it holds several.
  int look(Address at) const;
  Gpu gpu() const { return gpu_; }
  Stream* stream() const { return stream_; }

 private:
  Gpu gpu_ = 0;
  Stream* stream_ = nullptr;
};

uint64_t now_in_ns();
uint64_t median(std::vector<uint64_t> values);

Finding probe_addresses(int gpu);
Finding probe_arena(int gpu);
Finding probe_memory(int gpu);
Finding probe_export(int gpu);
Finding probe_descriptors(int gpu);
Finding probe_register(int gpu);
Finding probe_punched(int gpu);
Finding probe_kernels(int gpu, const std::string& module);
Finding probe_failure(int gpu, const std::string& module);

} // namespace hmmemu::cuda
