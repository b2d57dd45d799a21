// The __device__ and __constant__ variables of one module.
//
// A variable has an address of the GPU's own, which no CPU reaches. So each has a place in shared memory
// besides, an array like any other, that every launch of its module reaches: before a kernel the variable
// gets what the place holds, if anything came there since the last one, and behind the kernel the place gets
// what the variable holds (unless it is constant), by copies within the GPU, in the kernels' stream. So the
// CPU finds there what kernels wrote, and a keeper saves it.
//
// Invariant: a page of a place that a kernel may write holds, when no kernel of the module runs, what the
// variable holds. LOCK: the list of all places has a lock of its own; `stale_` is set by whoever brings
// pages, before their rights, and cleared by worker 0.
#pragma once
#include "device/process/json.h"
#include "libcuda.h"
#include <atomic>
#include <vector>

namespace hmmemu::cuda {

class Variables {
 public:
  Variables() = default;
  ~Variables();
  Variables(const Variables&) = delete;

  // `symbol` in the image; `name` in the source. Throws CudaError.
  void add(Module* module, const std::string& name, const std::string& symbol, bool constant);
  bool empty() const { return list_.empty(); }
  // Of shared memory for the places.
  uint64_t bytes() const { return bytes_; }
  // The places begin at `base`. Once.
  void place(uint64_t base);
  // An object for each; `initial`: with what it holds now, as hexadecimal digits, unless that is zeros.
  // Throws CudaError.
  void describe(device::JsonWriter& json, bool initial) const;

  // In the stream, before and behind a kernel of the module, which has the pages of the places. Throw
  // CudaError.
  void before_kernel(Stream* stream);
  void after_kernel(Stream* stream) const;

 private:
  friend void variables_came(uint64_t begin, uint64_t end);
  struct Variable {
    std::string name;
    Address address;
    size_t bytes;
    bool constant;
    uint64_t place; // from `base_`
  };
  std::string content(const Variable& variable) const;
  // Whether the GPU has all that was given to its places.
  bool has_come() const;

  std::vector<Variable> list_;
  uint64_t base_ = 0, bytes_ = 0;
  std::atomic<bool> stale_{true};
};

// Pages are about to have new content here.
void variables_came(uint64_t begin, uint64_t end);

} // namespace hmmemu::cuda
