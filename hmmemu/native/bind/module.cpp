// hmmemu._native: a table of contents. Types and signatures for Python: hmmemu/_native.pyi.
#include "bind/bind.h"

NB_MODULE(_native, m) {
  m.doc() = "hmmemu's native part: page tables, protocol, driver, device processes";
#ifndef HMMEMU_CHECK
  nanobind::set_leak_warnings(false); // a program may end with anything alive, in daemon threads, say
#endif
  bind_errors(m);          // C++ failures -> hmmemu.errors
  bind_arrays(m);          // where arrays lie
  bind_probe(m);           // what this machine allows
  bind_protocol(m);        // the pure functions, for tests and studies
  bind_device(m);          // the emulated device's process
  bind_session(m);         // the driver
  bind_repeated_launch(m); // launches like others before, in one call
  bind_truncations(m);     // accesses behind the end of files
  bind_protect(m);         // its protectors
  bind_wait_bench(m);      // wait lists under load, for `hmmemu bench waitqueue`
  bind_cpu_atomics(m);     // atomic operations of the CPU
  bind_merge(m);           // same-page merging
}
