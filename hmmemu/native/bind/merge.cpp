// Same-page merging, as Python sees it (hmmemu/ksm.py): free functions on a Session.
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "driver/session.h"
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace hmm;

namespace {

using Range = std::pair<uint64_t, uint64_t>; // begin, end

Pages pages_of(Range range) {
  if (range.first % kPage || range.second % kPage || range.second < range.first ||
      range.second > (uint64_t{1} << kAddressBits))
    throw Failure(FailureKind::Range, "a range must be whole pages of this process");
  return {range.first, range.second};
}

nb::dict merge(Session& session, const std::vector<Range>& ranges, uint64_t most_mappings) {
  std::vector<Pages> pages;
  for (Range range : ranges) pages.push_back(pages_of(range));
  MergeResult r;
  {
    Unlocked release;
    r = session.driver()->merge(pages, most_mappings);
  }
  nb::dict d;
  d["scanned"] = r.scanned;
  d["merged"] = r.merged;
  d["merged_before"] = r.before;
  d["zeros"] = r.zeros;
  d["skipped"] = r.skipped;
  d["sets"] = r.store.sets;
  d["frames"] = r.store.frames;
  d["stopped_by"] = r.stopped == MergeStop::MaxMapCount ? "vm.max_map_count"
                    : r.stopped == MergeStop::Memory    ? "memory"
                                                        : "";
  d["mappings"] = r.mappings;
  d["most_mappings"] = r.most_mappings;
  return d;
}

// (frame, owners as (address, mapping, offset, private data)).
nb::object record(Session& session, uint64_t address) {
  unsigned count = 0;
  std::vector<Owner> owners(64);
  Frame frame;
  {
    Unlocked release;
    frame = session.driver()->record(address, owners.data(), owners.size(), count);
    while (count > owners.size()) { // it may grow meanwhile
      owners.resize(2 * count);
      frame = session.driver()->record(address, owners.data(), owners.size(), count);
    }
  }
  nb::list list;
  for (unsigned i = 0; i < count; ++i)
    list.append(
        nb::make_tuple(owners[i].address, owners[i].mapping, owners[i].offset, owners[i].private_data));
  return nb::make_tuple(frame, list);
}

} // namespace

void bind_merge(nb::module_& m) {
  m.def("merge_pages", &merge, nb::arg("session"), nb::arg("ranges"), nb::arg("most_mappings"));
  m.def(
      "break_pages",
      [](Session& s, uint64_t begin, uint64_t end) { s.driver()->break_pages(pages_of({begin, end})); },
      WhileUnlocked(), nb::arg("session"), nb::arg("begin"), nb::arg("end"));
  m.def("page_record", &record, nb::arg("session"), nb::arg("address"));
}
