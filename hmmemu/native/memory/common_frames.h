// Frames of the CPU's private memory that devices may map, too: a file of the session's, in which the frame
// of the page at address A lies at offset A. A page's frame is there while the page is remote
// (driver/remote.cpp).
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
