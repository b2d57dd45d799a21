// Which ways to catch accesses this machine allows, each tried for real on a page of its own. For
// userfaultfd itself see probe_userfaultfd.
#pragma once
#include <string>

namespace hmm {

// Each returns why the tracker cannot work here and what to change; empty if it can. Nothing stays open.
std::string why_no_signal_tracker();
std::string why_no_async_tracker();

// Whether huge pages can be written against their protection through /proc/self/mem. It takes one for a
// moment: false also if there is none to be had.
bool can_write_huge_pages();

} // namespace hmm
