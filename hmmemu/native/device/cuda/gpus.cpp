// Purpose: ask the driver for its GPUs and for what hmmemu needs of them.
#include "gpus.h"

#include "device/process/json.h"
#include "libcuda.h"

namespace hmmemu::cuda {
namespace {

// What atomic operations the link to the CPU carries, in place: a mask for each, of
// CUatomicOperationCapability. None, and why: this driver does not say.
void describe_link(device::JsonWriter& json, const std::string& which, Gpu gpu) {
  const Libcuda& cuda = libcuda();
  unsigned masks[kAtomicOperations] = {};
  int operations[kAtomicOperations];
  for (int i = 0; i < kAtomicOperations; i++) operations[i] = i;
  char bus[32] = {};
  cuda.bus("ask for the place of " + which, bus, int(sizeof bus), gpu);
  std::string why;
  if (!cuda.host_atomics.there()) {
    why = std::string("this driver has no ") + cuda.host_atomics.name();
  } else {
    try {
      cuda.host_atomics("ask " + which + " for its atomics", masks, operations, kAtomicOperations, gpu);
    } catch (const CudaError& error) {
      why = error.what();
    }
  }
  json.key("bus").string(bus).key("host_page_tables").boolean(attribute(gpu, kHostPageTables) != 0);
  json.key("host_pointers").boolean(attribute(gpu, kHostPointers) != 0 && attribute(gpu, kHostRegister) != 0);
  json.key("atomics_unknown").string(why.c_str()).key("atomics").open('[');
  if (why.empty())
    for (const unsigned mask : masks) json.number(uint64_t(mask));
  json.close(']');
}

void describe(device::JsonWriter& json, int index) {
  const Libcuda& cuda = libcuda();
  const std::string which = "GPU " + std::to_string(index);
  Gpu gpu = 0;
  char name[256] = {};
  size_t bytes = 0;
  cuda.device_get("open " + which, &gpu, index);
  cuda.device_name("ask for the name of " + which, name, int(sizeof name) - 1, gpu);
  cuda.device_memory("ask for the memory of " + which, &bytes, gpu);
  json.open('{').key("index").number(uint64_t(index)).key("name").string(name).key("bytes").number(bytes);
  json.key("capability").open('[').number(uint64_t(attribute(gpu, kCapabilityMajor)));
  json.number(uint64_t(attribute(gpu, kCapabilityMinor))).close(']');
  json.key("compute_mode").number(uint64_t(attribute(gpu, kComputeMode)));
  json.key("unified_addresses").boolean(attribute(gpu, kUnifiedAddressing) != 0);
  json.key("virtual_memory").boolean(attribute(gpu, kVirtualMemory) != 0);
  json.key("file_descriptors").boolean(attribute(gpu, kFileDescriptors) != 0);
  json.key("host_atomics").boolean(attribute(gpu, kHostNativeAtomics) != 0);
  json.key("shared_bytes").number(uint64_t(attribute(gpu, kSharedBytesOptIn)));
  describe_link(json, which, gpu);
  json.close('}');
}

} // namespace

std::string describe_gpus() {
  const Libcuda& cuda = libcuda();
  int version = 0, count = 0;
  cuda.driver_version("ask for the driver's version", &version);
  cuda.device_count("count the GPUs", &count);
  device::JsonWriter json;
  json.open('{').key("driver").number(uint64_t(version)).key("gpus").open('[');
  for (int i = 0; i < count; i++) describe(json, i);
  json.close(']').close('}');
  return json.text();
}

} // namespace hmmemu::cuda
