// Purpose: to be without the interpreter's lock for a while, as nanobind's gil_scoped_release, and survive
// the end of the program there.
//
// A daemon thread that asks for the lock when the interpreter is at its end is ended by CPython before 3.14
// with pthread_exit, which unwinds the stack; that may not pass nanobind's functions, nor any destructor, and
// the program would be aborted. So the thread sleeps from there on, as in CPython 3.14
// (PyThread_hang_thread).
#pragma once
#include <cxxabi.h>
#include <nanobind/nanobind.h>
#include <unistd.h>

// Calls what may ask for the interpreter's lock. In a thread that is to end in it, it does not return.
template <class F> decltype(auto) with_interpreter(F&& call) {
  try {
    return call();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    with_interpreter([this] { PyEval_RestoreThread(state_); });
  }
  Unlocked(const Unlocked&) = delete;

 private:
  PyThreadState* const state_;
};

// For def(): the whole function runs without the lock.
using WhileUnlocked = nanobind::call_guard<Unlocked>;
