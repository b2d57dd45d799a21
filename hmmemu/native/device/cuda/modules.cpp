// Purpose: load kernels into the GPU: an image that hmmemu compiled, with a table of its kernels before it.
//
// The file: a line "hmmemu-cuda 3"; a line "prints" if its kernels may print (printf, assert); a line for
// each variable, "variable NAME SYMBOL CONSTANT"; a line for each kernel, "kernel NAME SYMBOL PARAM_BYTES",
// and after it one for each parameter, "param NAME TYPE OFFSET SIZE KIND SIGNED CONST POINTEE", fields with
// tabs between; an empty line; the image, as cuModuleLoadData takes it (PTX, cubin).
//
// Invariants as in device/process/modules.cpp: one thread loads and unloads; handles are never used twice;
// the table of kernels is read by worker 0 without a lock.
#include "device/process/modules.h"

#include "device/process/json.h"
#include "kernels.h"
#include "residency.h"
#include "gpu_memory.h"
#include "variables.h"

#include <deque>
#include <fstream>
#include <memory>
#include <sstream>
#include <vector>

namespace hmmemu::device {
namespace {

using cuda::CudaKernel;

constexpr uint64_t kKernels = 1u << 16;
std::atomic<const CudaKernel*> kernels[kKernels];
uint64_t kernel_count = 0;

struct Param {
  std::string name, type;
  unsigned long numbers[6]; // offset, size, kind, signed, const, pointee
};
struct Entry {
  std::string name, symbol;
  unsigned long numbers[1]; // bytes of parameters
  std::vector<Param> params;
};

struct Global {
  std::string name, symbol;
  unsigned long numbers[1]; // constant
};
struct Table {
  std::deque<Entry> entries; // names stay where they are: kernels point to them
  std::vector<Global> globals;
  bool prints = false;
};

struct Module {
  cuda::Module* module = nullptr;
  uint64_t first = 0, end = 0;
  Table table;
  std::deque<CudaKernel> kernels;
  cuda::Variables variables;
};
std::deque<Module> modules; // number - 1 is the index; an unloaded one stays as an empty entry

std::vector<std::string> fields(const std::string& line) {
  std::vector<std::string> list;
  std::stringstream text(line);
  for (std::string field; std::getline(text, field, '\t');) list.push_back(field);
  return list;
}

template <size_t N> void numbers(const std::vector<std::string>& list, size_t from, unsigned long (&to)[N]) {
  for (size_t i = 0; i < N; i++) to[i] = strtoul(list[from + i].c_str(), nullptr, 10);
}

// False: not a table of ours. Leaves the stream at the image.
bool read_table(std::istream& file, Table& table) {
  std::deque<Entry>& entries = table.entries;
  std::string line;
  if (!std::getline(file, line) || line != "hmmemu-cuda 3") return false;
  while (std::getline(file, line)) {
    if (line.empty()) return true;
    const std::vector<std::string> list = fields(line);
    if (line == "prints") {
      table.prints = true;
    } else if (list[0] == "kernel" && list.size() == 4) {
      entries.push_back({list[1], list[2], {}, {}});
      numbers(list, 3, entries.back().numbers);
    } else if (list[0] == "variable" && list.size() == 4) {
      table.globals.push_back({list[1], list[2], {}});
      numbers(list, 3, table.globals.back().numbers);
    } else if (list[0] == "param" && list.size() == 9 && !entries.empty()) {
      entries.back().params.push_back({list[1], list[2], {}});
      numbers(list, 3, entries.back().params.back().numbers);
    } else {
      return false;
    }
  }
  return false;
}

void describe(JsonWriter& json, const Entry& entry, const hmm_kernel& kernel, uint64_t handle) {
  json.open('{')
      .key("name")
      .string(entry.name.c_str())
      .key("handle")
      .number(handle)
      .key("mode")
      .string("cuda");
  json.key("param_bytes").number(kernel.param_bytes).key("static_shared").number(kernel.static_shared);
  json.key("waits").boolean(false).key("max_threads").number(kernel.max_threads).key("params").open('[');
  for (const Param& p : entry.params) {
    json.open('{').key("name").string(p.name.c_str()).key("type").string(p.type.c_str());
    json.key("offset").number(p.numbers[0]).key("size").number(p.numbers[1]).key("kind").number(p.numbers[2]);
    json.key("is_signed").boolean(p.numbers[3]).key("pointee_const").boolean(p.numbers[4]);
    json.key("pointee_size").number(p.numbers[5]).close('}');
  }
  json.close(']').close('}');
}

uint64_t handle_of(uint64_t index) { return uint64_t(channel->generation) << 32 | (index + 1); }

std::string describe(const Module& module, uint64_t id, bool initialise) {
  JsonWriter json;
  json.open('{').key("module").number(id).key("bytes_used").number(module.variables.bytes());
  json.key("kernels").open('[');
  for (size_t i = 0; i < module.table.entries.size(); i++)
    describe(json, module.table.entries[i], module.kernels[i].abi, handle_of(module.first + i));
  json.close(']').key("globals").open('[');
  module.variables.describe(json, initialise);
  json.close(']').close('}');
  return json.text();
}

// Dynamic shared memory may be all that a block can have; the user's words are checked before.
CudaKernel find_kernel(Module& home, const Entry& entry) {
  cuda::Module* const module = home.module;
  const cuda::Libcuda& cuda = cuda::libcuda();
  CudaKernel kernel{};
  kernel.variables = home.variables.empty() ? nullptr : &home.variables;
  kernel.prints = home.table.prints;
  for (const Param& p : entry.params)
    if (p.numbers[2] == HMM_PARAM_POINTER && p.numbers[1] == sizeof(uint64_t))
      kernel.pointers.push_back(uint32_t(p.numbers[0]));
  int threads = 0, shared = 0;
  cuda.module_function("find kernel " + entry.name, &kernel.function, module, entry.symbol.c_str());
  cuda.function_get("ask how many threads kernel " + entry.name + " allows", &threads, cuda::kMaxThreads,
                    kernel.function);
  cuda.function_get("ask for the shared memory of kernel " + entry.name, &shared, cuda::kStaticShared,
                    kernel.function);
  const int most = cuda::attribute(cuda::gpu().gpu(), cuda::kSharedBytesOptIn);
  if (shared < most)
    cuda.function_set("allow kernel " + entry.name + " all shared memory", kernel.function,
                      cuda::kMostDynamicShared, most - shared);
  kernel.abi.name = entry.name.c_str();
  kernel.abi.param_bytes = uint32_t(entry.numbers[0]);
  kernel.abi.static_shared = uint32_t(shared);
  kernel.abi.max_threads = uint32_t(threads);
  return kernel;
}

void fill(Module& module, const std::string& path, const std::string& image) {
  cuda::gpu().enter_context();
  cuda::gpu().with_room([&] { cuda::libcuda().module_load("load " + path, &module.module, image.c_str()); });
  for (const Global& global : module.table.globals)
    module.variables.add(module.module, global.name, global.symbol, global.numbers[0] != 0);
  for (const Entry& entry : module.table.entries) // CUDA may load it only now
    cuda::gpu().with_room([&] { module.kernels.push_back(find_kernel(module, entry)); });
}

} // namespace

LoadResult load_module(const std::string& path, uint64_t globals, uint64_t room, bool initialise) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return {kStatusFailed, 0, path + " cannot be read"};
  Table table;
  if (!read_table(file, table))
    return {kStatusFailed, 0, path + " is not a kernel module for a GPU: compile it again"};
  if (kernel_count + table.entries.size() > kKernels)
    return {kStatusFailed, 0, "too many kernels were loaded into this device: start a new address space"};
  const std::string image{std::istreambuf_iterator<char>(file), {}};
  Module& module = modules.emplace_back();
  module.table = std::move(table);
  LoadResult result{kStatusOk, 0, ""};
  try {
    fill(module, path, image);
    result.value = module.variables.bytes();
    if (result.value > room) {
      result = {kStatusNoMemory, result.value, "the module's variables do not fit"};
    } else {
      module.variables.place(globals);
      module.first = kernel_count;
      result.text = describe(module, modules.size(), initialise);
    }
  } catch (const cuda::CudaError& error) {
    result = {kStatusFailed, 0, error.what()};
  }
  if (result.status != kStatusOk) {
    if (module.module) cuda::libcuda().module_unload.ask(module.module);
    modules.pop_back();
    return result;
  }
  for (const CudaKernel& kernel : module.kernels)
    kernels[kernel_count++].store(&kernel, std::memory_order_release);
  module.end = kernel_count;
  return result;
}

LoadResult unload_module(uint64_t id) {
  if (id == 0 || id > modules.size() || !modules[id - 1].module)
    return {kStatusFailed, 0, "module " + std::to_string(id) + " is not loaded"};
  Module& module = modules[id - 1];
  if (channel->queue.completed.load() < channel->queue.produced.load())
    return {kStatusFailed, 0, "kernels are still running: synchronize before unloading a module"};
  for (uint64_t i = module.first; i < module.end; i++) kernels[i].store(nullptr, std::memory_order_release);
  try {
    cuda::gpu().enter_context();
    cuda::libcuda().module_unload("unload a module", module.module);
  } catch (const cuda::CudaError& error) {
    return {kStatusFailed, 0, error.what()};
  }
  module.module = nullptr;
  return {kStatusOk, 0, ""};
}

const hmm_kernel* find_kernel(uint64_t handle) {
  const uint64_t index = handle - handle_of(0);
  const CudaKernel* const found = index < kKernels ? kernels[index].load(std::memory_order_acquire) : nullptr;
  return found ? &found->abi : nullptr;
}

} // namespace hmmemu::device
