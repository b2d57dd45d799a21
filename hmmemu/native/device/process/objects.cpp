// Purpose: a table of the loaded objects that a signal handler can read.
// Invariants: one writer (see the header). An entry is valid while `end` is not 0; `end` is written
// last and cleared first. Objects beyond the table's size are not named in crash records.
#include "objects.h"
#include <atomic>
#include <cstdio>
#include <cstring>
#include <link.h>
#include <unistd.h>

namespace hmmemu::device {
namespace {

struct Object {
  std::atomic<uint64_t> start, end;
  uint64_t base;
  bool seen;
  char path[1024];
};
constexpr unsigned kObjects = 512;
Object objects[kObjects];

Object* slot_for(uint64_t start, uint64_t end, uint64_t base) {
  Object* free_slot = nullptr;
  for (Object& o : objects) {
    if (o.end == end && o.start == start && o.base == base) return &o;
    if (o.end == 0 && !free_slot) free_slot = &o;
  }
  return free_slot;
}

int add_object(dl_phdr_info* info, size_t, void*) {
  uint64_t start = UINT64_MAX, end = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const uint64_t low = info->dlpi_addr + segment.p_vaddr;
    start = low < start ? low : start;
    end = low + segment.p_memsz > end ? low + segment.p_memsz : end;
  }
  Object* const o = end ? slot_for(start, end, info->dlpi_addr) : nullptr;
  if (!o) return 0;
  o->end = 0;
  const bool program = !info->dlpi_name || !info->dlpi_name[0];
  snprintf(o->path, sizeof o->path, "%s", program ? "hmmemu-device" : info->dlpi_name);
  o->base = info->dlpi_addr;
  o->seen = true;
  o->start = start;
  o->end = end;
  return 0;
}

} // namespace

void refresh_objects() {
  for (Object& o : objects) o.seen = false;
  dl_iterate_phdr(add_object, nullptr);
  for (Object& o : objects)
    if (!o.seen) o.end = 0;
}

Place find_object(uint64_t instruction) {
  for (const Object& o : objects)
    if (instruction < o.end && instruction >= o.start) return {o.path, instruction - o.base};
  return {};
}

} // namespace hmmemu::device
