// Purpose: load kernel modules, give their variables addresses in shared memory, and describe them
// as JSON.
//
// Globals are placed one after another in the order in which the module's constructors ask, so that
// loading the same module at the same base gives every variable its old address: a new process
// finds the values there. Invariants: one thread (the agent) loads and unloads. Kernel handles are
// never used twice, so a stale one is refused and not mistaken; the table of kernels is read by
// worker 0 without a lock.
#include "modules.h"
#include "failure.h"
#include "json.h"
#include "objects.h"
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <vector>

namespace hmmemu::device {
namespace {

constexpr uint64_t kKernels = 1u << 16;
constexpr uint64_t kDrainLimit = 10'000'000'000; // ns
std::atomic<const hmm_kernel*> kernels[kKernels];
uint64_t kernel_count = 0;

struct Module {
  void* handle;
  uint64_t first_kernel, end_kernel, bytes_used;
  unsigned loads;
};
std::map<uint64_t, Module> modules;
uint64_t module_count = 0;

// Where the globals of the module that is being loaded go.
struct Placement {
  uint64_t base, capacity, used;
  bool initialise, active;
  std::vector<std::string> spill; // room for variables that do not fit: the load fails after its constructors
} placement;

// Handles of another generation are refused: after a restart the same number would be another
// kernel.
uint64_t handle_of(uint64_t index) { return uint64_t(channel->generation) << 32 | (index + 1); }

bool overflowed() { return placement.used > placement.capacity; }

void describe_param(JsonWriter& json, const hmm_param& p) {
  json.open('{').key("name").string(p.name).key("type").string(p.type).key("offset").number(p.offset);
  json.key("size").number(p.size).key("kind").number(p.kind).key("is_signed").boolean(p.is_signed);
  json.key("pointee_const").boolean(p.pointee_const).key("pointee_size").number(p.pointee_size).close('}');
}

void describe_kernel(JsonWriter& json, const hmm_kernel& k, uint64_t handle) {
  json.open('{').key("name").string(k.name).key("handle").number(handle).key("mode").string(k.mode);
  json.key("param_bytes").number(k.param_bytes).key("static_shared").number(k.static_shared);
  json.key("max_threads").number(k.max_threads).key("waits").boolean(k.waits);
  json.key("params").open('[');
  for (uint32_t i = 0; i < k.param_count; i++) describe_param(json, k.params[i]);
  json.close(']').close('}');
}

void describe_global(JsonWriter& json, const hmm_global& g) {
  json.open('{').key("name").string(g.name).key("type").string(g.type);
  json.key("address").number(reinterpret_cast<uint64_t>(g.address)).key("bytes").number(g.bytes);
  json.key("constant").boolean(g.constant).close('}');
}

std::string describe(const hmm_module& table, uint64_t id, const Module& module) {
  JsonWriter json;
  json.open('{')
      .key("module")
      .number(id)
      .key("bytes_used")
      .number(module.bytes_used)
      .key("kernels")
      .open('[');
  for (uint32_t i = 0; i < table.kernel_count; i++)
    describe_kernel(json, table.kernels[i], handle_of(module.first_kernel + i));
  json.close(']').key("globals").open('[');
  for (uint32_t i = 0; i < table.global_count; i++) describe_global(json, table.globals[i]);
  json.close(']').close('}');
  return json.text();
}

LoadResult failed(const std::string& text) { return {kStatusFailed, 0, text}; }

LoadResult refuse(void* handle, const std::string& text) {
  dlclose(handle);
  refresh_objects();
  return failed(text);
}

const hmm_module* module_table(void* handle) {
  using Entry = const hmm_module* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(handle, "hmmemu_module"));
  return entry ? entry() : nullptr;
}

void* run_constructors(const std::string& path, uint64_t globals, uint64_t capacity, bool initialise) {
  placement = {globals, capacity, 0, initialise, true, {}};
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  placement.active = false;
  refresh_objects();
  return handle;
}

LoadResult enter_module(void* handle, const hmm_module& table) {
  const uint64_t id = ++module_count;
  Module module{handle, kernel_count, kernel_count + table.kernel_count, placement.used, 1};
  for (uint32_t i = 0; i < table.kernel_count; i++)
    kernels[kernel_count++].store(&table.kernels[i], std::memory_order_release);
  const auto entered = modules.emplace(id, module).first;
  return {kStatusOk, module.bytes_used, describe(table, id, entered->second)};
}

bool drain_queue() {
  const Queue& queue = channel->queue;
  const uint64_t ticket = queue.produced.load(), limit = now_ns() + kDrainLimit;
  while (queue.completed.load() < ticket && now_ns() < limit) usleep(200);
  return queue.completed.load() >= ticket;
}

} // namespace

LoadResult load_module(const std::string& path, uint64_t globals, uint64_t capacity, bool initialise) {
  void* const handle = run_constructors(path, globals, capacity, initialise);
  if (!handle) {
    const char* const reason = dlerror();
    return failed(reason ? reason : path + " cannot be loaded");
  }
  const hmm_module* const table = module_table(handle);
  for (auto& [id, module] : modules) // loaded before: the same object, its constructors have run
    if (module.handle == handle && table) {
      module.loads++;
      return {kStatusOk, module.bytes_used, describe(*table, id, module)};
    }
  if (!table) return refuse(handle, path + " is not a kernel module: it has no hmmemu_module()");
  if (table->abi != HMMEMU_ABI)
    return refuse(handle, path + " was built for module interface " + std::to_string(table->abi) + ", not " +
                              std::to_string(HMMEMU_ABI) + ": compile it again");
  if (kernel_count + table->kernel_count > kKernels)
    return refuse(handle, "too many kernels were loaded into this device: start a new address space");
  if (overflowed()) {
    const uint64_t needed = placement.used;
    refuse(handle, "");
    placement.spill.clear();
    return {kStatusNoMemory, needed, "the module's variables do not fit"};
  }
  return enter_module(handle, *table);
}

LoadResult unload_module(uint64_t id) {
  const auto found = modules.find(id);
  if (found == modules.end()) return failed("module " + std::to_string(id) + " is not loaded");
  Module& module = found->second;
  if (module.loads > 1) {
    module.loads--;
    dlclose(module.handle);
    return {kStatusOk, 0, ""};
  }
  if (!drain_queue()) return failed("kernels are still running: synchronize before unloading a module");
  for (uint64_t i = module.first_kernel; i < module.end_kernel; i++)
    kernels[i].store(nullptr, std::memory_order_release);
  if (!drain_queue()) // one that was found just before
    return failed("kernels are still running: the module stays in memory");
  dlclose(module.handle);
  modules.erase(found);
  refresh_objects();
  return {kStatusOk, 0, ""};
}

const hmm_kernel* find_kernel(uint64_t handle) {
  const uint64_t index = handle - handle_of(0);
  return index < kKernels ? kernels[index].load(std::memory_order_acquire) : nullptr;
}

} // namespace hmmemu::device

void* hmmemu_global_address(const char* name, size_t bytes, size_t align, const void* initial) {
  using namespace hmmemu::device;
  if (!placement.active || hmmemu_worker_self)
    fail_device("a module asked for a variable outside its constructors");
  (void)name;
  const uint64_t alignment = align ? align : 1;
  const uint64_t address = (placement.base + placement.used + alignment - 1) / alignment * alignment;
  placement.used = address + bytes - placement.base;
  if (overflowed()) {
    placement.spill.emplace_back(bytes + alignment, 0);
    const auto room = reinterpret_cast<uint64_t>(placement.spill.back().data());
    return reinterpret_cast<void*>((room + alignment - 1) / alignment * alignment);
  }
  void* const variable = reinterpret_cast<void*>(address);
  if (placement.initialise && initial)
    memcpy(variable, initial, bytes);
  else if (placement.initialise)
    memset(variable, 0, bytes);
  return variable;
}
