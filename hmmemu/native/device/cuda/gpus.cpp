// Purpose: ask the driver for its GPUs and for what hmmemu needs of them.
#include "gpus.h"

#include "device/process/json.h"
#include "libcuda.h"

namespace hmmemu::cuda {
namespace {

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
