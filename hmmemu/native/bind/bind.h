// The parts of the extension module; module.cpp is the table of contents.
#pragma once
#include <nanobind/nanobind.h>

namespace hmm {
class Session;
}

void bind_errors(nanobind::module_& m);
void bind_arrays(nanobind::module_& m);
void bind_probe(nanobind::module_& m);
void bind_protocol(nanobind::module_& m);
void bind_session(nanobind::module_& m);
void bind_wait_bench(nanobind::module_& m);
void bind_cpu_atomics(nanobind::module_& m);
void bind_protect(nanobind::module_& m);
void bind_merge(nanobind::module_& m);
void bind_device(nanobind::module_& m);
void bind_repeated_launch(nanobind::module_& m);
void bind_files(nanobind::class_<hmm::Session>& session);
void bind_truncations(nanobind::module_& m);
