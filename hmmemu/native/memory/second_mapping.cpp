#include "memory/second_mapping.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace hmm {
namespace {

// The line of /proc/self/maps in which an address lies.
struct Line {
  std::string range; // as it is written there
  uint64_t begin = 0, offset = 0;
  dev_t device = 0;
  ino_t inode = 0;
};

bool find_line(uint64_t address, Line& found) {
  std::ifstream maps("/proc/self/maps");
  for (std::string text; std::getline(maps, text);) {
    unsigned long begin, end, offset, inode;
    unsigned major, minor;
    if (std::sscanf(text.c_str(), "%lx-%lx %*s %lx %x:%x %lu", &begin, &end, &offset, &major, &minor,
                    &inode) != 6)
      continue;
    if (address < begin || address >= end) continue;
    found = {text.substr(0, text.find(' ')), begin, offset, makedev(major, minor), inode};
    return true;
  }
  return false;
}

bool shows(int fd, const Line& line) {
  struct stat file{};
  return fstat(fd, &file) == 0 && file.st_dev == line.device && file.st_ino == line.inode;
}

int map_file(int fd, const Line& line, Pages pages, void* at) {
  const auto offset = static_cast<off_t>(line.offset + (pages.begin - line.begin));
  for (int rights : {PROT_READ | PROT_WRITE, PROT_READ})
    if (mmap(at, pages.bytes(), rights, MAP_SHARED | MAP_FIXED, fd, offset) != MAP_FAILED) return 0;
  return errno;
}

// With the file itself: a descriptor of it that this process has open (Python's mmap keeps one), or the
// kernel's own link to it, which only privileged processes may follow.
int map_from_file(Pages pages, void* at) {
  Line line;
  if (!find_line(pages.begin, line)) return ENOENT;
  int result = EPERM;
  if (DIR* open_files = opendir("/proc/self/fd")) {
    while (const dirent* entry = readdir(open_files)) {
      const int fd = std::atoi(entry->d_name);
      if (result && entry->d_name[0] != '.' && shows(fd, line)) result = map_file(fd, line, pages, at);
    }
    closedir(open_files);
  }
  if (!result) return 0;
  const int fd = open(("/proc/self/map_files/" + line.range).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return result;
  result = shows(fd, line) ? map_file(fd, line, pages, at) : EPERM;
  close(fd);
  return result;
}

} // namespace

// Of a shared mapping, mremap with an old size of zero makes a second one; not of huge pages (EINVAL).
int map_again(Pages pages, void* at) {
  void* from = reinterpret_cast<void*>(pages.begin);
  if (mremap(from, 0, pages.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED) {
    munlock(at, pages.bytes()); // as the program's may be: of locked memory no frame can be freed
    // EACCES: the file is open for reading only.
    if (mprotect(at, pages.bytes(), PROT_READ | PROT_WRITE) != 0 && errno != EACCES) return errno;
  } else if (errno != EINVAL) {
    return errno;
  } else if (int error = map_from_file(pages, at)) {
    return error;
  }
  madvise(at, pages.bytes(), MADV_DONTFORK);
  return 0;
}

int map_by_address(int file, Pages pages, void* at) {
  void* found = mmap(at, pages.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file,
                     static_cast<off_t>(pages.begin));
  if (found == MAP_FAILED) return errno;
  madvise(at, pages.bytes(), MADV_DONTFORK);
  madvise(at, pages.bytes(), MADV_DONTDUMP);
  return 0;
}

} // namespace hmm
