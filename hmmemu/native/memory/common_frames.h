// Frames of the CPU's memory that devices may map, too: a file of the session's, in which the frame of the
// page at address A lies at offset A. That of a page of private memory is there while the page is remote
// (driver/remote.cpp); those of an arena which is a mapping of this file (driver/ranges.cpp) always, but for
// merged pages.
//
// No fork child has mappings of it: what private memory has there goes back first, and of an arena the child
// gets a copy (memory/fork_copy.h).
//
// Callers hold the locks of the pages.
#pragma once
#include "memory/file_alias.h"

namespace hmm {

class CommonFrames {
 public:
  CommonFrames();
  ~CommonFrames() { close(); }
  CommonFrames(const CommonFrames&) = delete;

  int file() const { return file_; }
  // Puts the content there, and the pages become those of the file, in one step for every thread, to read and
  // write. 0 or errno, and the pages are as they were.
  int put(const Block& block, Pages pages, const std::byte* content);
  // Makes sure that the frames of a block can be seen from here, whatever becomes of the process's limits:
  // put and frames do it at their first use, and end the process where they cannot. 0 or errno.
  int add_block(const Block& block) const { return alias_.map(file_, block); }
  const std::byte* frames(const Block& block, Pages pages) const { return alias_.at(file_, block, pages); }
  // Nobody has them mapped any more.
  int free(Pages pages) const;
  // In a fork child.
  void close();

 private:
  int file_;
  FileAlias alias_;
};

} // namespace hmm
