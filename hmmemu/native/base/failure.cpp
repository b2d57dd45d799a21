#include "base/failure.h"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace hmm {

void throw_errno(FailureKind kind, const std::string& what) {
  throw Failure(kind, what + ": " + std::strerror(errno));
}

void fatal(const char* format, ...) {
  // vsnprintf into a stack buffer and write(2): stdio would take locks and allocate.
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  int n = std::vsnprintf(text, sizeof text - 1, format, arguments);
  va_end(arguments);
  if (n < 0) n = 0;
  if (n > static_cast<int>(sizeof text) - 2) n = sizeof text - 2;
  text[n++] = '\n';
  if (write(2, "hmmemu: ", 8) < 0 || write(2, text, n) < 0) std::abort();
  std::abort();
}

} // namespace hmm
