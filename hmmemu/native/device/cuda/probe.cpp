// Purpose: name the probes, run one, and write what it found. No state, one thread.
#include "probe.h"

#include "device/process/json.h"

#include <algorithm>
#include <ctime>
#include <functional>
#include <map>

namespace hmmemu::cuda {

uint64_t now_in_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

uint64_t median(std::vector<uint64_t> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

Rig::Rig(int index) {
  const Libcuda& cuda = libcuda();
  cuda.device_get("open the GPU", &gpu_, index);
  cuda.context_set("use the context", open_context(gpu_, "make a context"));
  cuda.stream_create("make a stream", &stream_, 1); // CU_STREAM_NON_BLOCKING
}

Rig::Granule Rig::make(Address wish) const {
  AllocationProperties properties;
  properties.location.id = gpu_;
  Memory memory = 0;
  libcuda().create("allocate 2 MiB", &memory, kProbed, &properties, 0);
  return map(memory, wish);
}

Rig::Granule Rig::map(Memory memory, Address wish) const {
  AccessRights rights;
  rights.location.id = gpu_;
  Address at = kNowhere;
  libcuda().reserve("reserve addresses", &at, kProbed, kProbed, wish, 0);
  libcuda().map("map 2 MiB", at, kProbed, 0, memory, 0);
  libcuda().set_access("open 2 MiB", at, kProbed, &rights, 1);
  return {at, memory};
}

void Rig::unmake(Granule granule) const {
  libcuda().unmap("unmap 2 MiB", granule.at, kProbed);
  libcuda().unreserve("give up addresses", granule.at, kProbed);
  libcuda().release("free 2 MiB", granule.memory);
}

void Rig::fill(Address at, unsigned char value) const {
  libcuda().fill("fill 2 MiB", at, value, kProbed, stream_);
  libcuda().stream_wait("fill 2 MiB", stream_);
}

int Rig::look(Address at) const {
  unsigned char page[4096];
  libcuda().copy_out("copy a page home", page, at, sizeof page, stream_);
  libcuda().stream_wait("copy a page home", stream_);
  return std::all_of(page, page + sizeof page, [&](unsigned char c) { return c == page[0]; }) ? page[0] : -1;
}

std::string run_probe(const std::string& name, int gpu, const std::string& module) {
  const std::map<std::string, std::function<Finding()>> probes = {
      {"addresses", [=] { return probe_addresses(gpu); }},
      {"arena", [=] { return probe_arena(gpu); }},
      {"memory", [=] { return probe_memory(gpu); }},
      {"export", [=] { return probe_export(gpu); }},
      {"descriptors", [=] { return probe_descriptors(gpu); }},
      {"register", [=] { return probe_register(gpu); }},
      {"punched", [=] { return probe_punched(gpu); }},
      {"kernels", [=] { return probe_kernels(gpu, module); }},
      {"failure", [=] { return probe_failure(gpu, module); }},
  };
  const auto probe = probes.find(name);
  if (probe == probes.end()) throw CudaError(0, "there is no probe " + name);
  const Finding found = probe->second();
  device::JsonWriter json;
  json.open('{').key("ok").boolean(found.ok).key("found").string(found.words.c_str());
  json.key("figures").open('{');
  for (const auto& [key, value] : found.figures) json.key(key.c_str()).number(value);
  json.close('}').close('}');
  return json.text();
}

} // namespace hmmemu::cuda
