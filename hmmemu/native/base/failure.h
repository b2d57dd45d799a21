// Errors of the native part.
//
// Two kinds only. `Failure` is an exception for calls that come from Python; the binding turns it into the
// class of hmmemu.errors that its kind names. `fatal` is for a broken invariant in a driver thread, where
// nobody could catch anything: it says what was found and aborts, because going on would mean wrong data.
#pragma once
#include <stdexcept>
#include <string>

namespace hmm {

enum class FailureKind { Error, Unsupported, Closed, Range, OutOfMemory, Device, Truncated };

class Failure : public std::runtime_error {
 public:
  Failure(FailureKind kind, const std::string& message) : std::runtime_error(message), kind(kind) {}
  FailureKind kind;
};

// "what: strerror(errno)", as an exception.
[[noreturn]] void throw_errno(FailureKind kind, const std::string& what);

[[noreturn]] void fatal(const char* format, ...) __attribute__((format(printf, 1, 2)));

} // namespace hmm
