// Where one mapping of the process ends and the next begins: a second mapping can be made of one at a time
// only. Opens a file, so from Python threads. No state, so no lock.
#pragma once
#include "base/pages.h"
#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace hmm {

// Calls visit(part) -> 0 or errno for each mapping that the pages lie in.
template <class Visit> int each_mapping(Pages pages, Visit visit) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (!maps) return errno;
  char line[512];
  int error = 0;
  while (!error && std::fgets(line, sizeof line, maps)) {
    unsigned long begin, end;
    if (std::sscanf(line, "%lx-%lx ", &begin, &end) != 2) continue; // the rest of a long path
    const Pages part{std::max(pages.begin, begin), std::min(pages.end, end)};
    if (!part.empty()) error = visit(part);
  }
  std::fclose(maps);
  return error;
}

} // namespace hmm
