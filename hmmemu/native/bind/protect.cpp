// hmmemu._native.PageLog: protectors as Python sees them. See driver/page_log.h.
//
// A log belongs to one session and is registered from its making until `drop`. Its methods are called by one
// thread at a time (Python guards them); waiting and copying happen without the GIL.
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "driver/page_log.h"
#include "driver/session.h"
#include <cstring>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace hmm;

namespace {

// In memory of its own: driver threads ring it.
class BellMemory {
 public:
  BellMemory() = default;
  BellMemory(const BellMemory&) = delete;
  Bell* operator->() const { return &*memory_; }
  Bell& operator*() const { return *memory_; }

 private:
  ProtectorMemory<Bell> memory_;
};

class Log {
 public:
  Log(nb::object session, uint64_t begin, uint64_t end, bool keep_content, nb::object bell)
      : owner_(session), bell_(bell), session_(nb::cast<Session&>(session)),
        log_(checked(begin, end), keep_content, bell.is_none() ? nullptr : &*nb::cast<BellMemory&>(bell)) {
    session_.driver()->watch(*log_);
  }
  ~Log() { drop(); }

  void arm(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) {
    Unlocked release;
    for (auto [begin, end] : ranges) session_.driver()->arm(*log_, inside(begin, end));
  }

  void drop() {
    Unlocked release;
    if (dropped_.exchange(true)) return;
    if (Session::Use use = session_.last_use()) use->drop(*log_);
  }

  // Pages written and not yet taken, in order.
  nb::bytes take(uint64_t most) {
    std::vector<uint64_t> pages(std::min(most, log_->range().count()));
    pages.resize(log_->take(pages.data(), pages.size()));
    return nb::bytes(pages.data(), pages.size() * sizeof(uint64_t));
  }

  void forget(const std::vector<uint64_t>& pages) {
    for (uint64_t page : pages) {
      inside(page, page + kPage);
      log_->forget(page);
      log_->drop_content(page);
    }
  }

  nb::bytes before(uint64_t page) const {
    inside(page, page + kPage);
    const std::byte* content = log_->before(page);
    if (!content || !log_->written(page))
      throw Failure(FailureKind::Range, "the page was not written, or its content was not kept");
    return nb::bytes(reinterpret_cast<const char*>(content), kPage);
  }

  // The range as it was when it was armed: kept pages, and for those not written since, their content now.
  void read(uint64_t begin, uint64_t end, uint64_t data) const {
    struct Target {
      const PageLog* log;
      uint64_t begin;
      std::byte* buffer;
    };
    Unlocked release;
    const Pages all = inside(begin, end);
    Mapping buffer(kBlock); // `data` may be managed itself: never touched with pages locked
    for (uint64_t a = all.begin; a < all.end;) {
      const Pages part{a, std::min(all.end, block_down(a) + kBlock)};
      Target target{&*log_, part.begin, buffer.as<std::byte>()};
      std::memset(buffer.as<void>(), 0, part.bytes());
      session_.driver()->read_pages(
          part,
          [](void* context, uint64_t page, const std::byte* now) {
            auto& t = *static_cast<Target*>(context);
            if (now && !t.log->written(page)) std::memcpy(t.buffer + (page - t.begin), now, kPage);
          },
          &target);
      // Whatever was written, meanwhile too, or has left the address space since.
      for (uint64_t page = part.begin; page < part.end; page += kPage)
        if (log_->written(page) || log_->kept(page))
          std::memcpy(buffer.as<std::byte>() + (page - part.begin), log_->before(page), kPage);
      std::memcpy(reinterpret_cast<std::byte*>(data) + (part.begin - all.begin), buffer.as<void>(),
                  part.bytes());
      a = part.end;
    }
  }

  uint64_t written_pages() const { return log_->written_pages(); }

 private:
  static Pages checked(uint64_t begin, uint64_t end) {
    if (begin % kPage || end % kPage || end <= begin)
      throw Failure(FailureKind::Range, "a protector watches one page or more");
    return {begin, end};
  }
  Pages inside(uint64_t begin, uint64_t end) const {
    const Pages all = log_->range();
    if (begin % kPage || end % kPage || begin < all.begin || end > all.end || end < begin)
      throw Failure(FailureKind::Range, "pages that this protector does not watch");
    return {begin, end};
  }

  nb::object owner_, bell_; // kept alive
  Session& session_;
  ProtectorMemory<PageLog> log_;
  std::atomic<bool> dropped_{false};
};

Log* make_log(nb::object session, uint64_t begin, uint64_t end, bool keep_content, nb::object bell) {
  return new Log(std::move(session), begin, end, keep_content, std::move(bell));
}

} // namespace

void bind_protect(nb::module_& m) {
  nb::class_<BellMemory>(m, "Bell")
      .def(nb::new_([] { return new BellMemory; }))
      .def_prop_ro("count", [](BellMemory& bell) { return bell->count(); })
      .def("ring", [](BellMemory& bell) { bell->ring(); })
      .def(
          "wait",
          [](BellMemory& bell, uint32_t seen, double seconds) {
            Unlocked release;
            bell->wait(seen, uint64_t(seconds * 1e9));
          },
          nb::arg("seen"), nb::arg("seconds"));
  nb::class_<Log>(m, "PageLog")
      .def(nb::new_(&make_log), nb::arg("session"), nb::arg("begin"), nb::arg("end"), nb::arg("keep_content"),
           nb::arg("bell").none())
      .def("arm", &Log::arm, nb::arg("ranges"), "The next write to each page of the ranges is told.")
      .def("drop", &Log::drop)
      .def("take", &Log::take, nb::arg("most"), "Addresses of written pages, in order, as bytes (uint64).")
      .def("forget", &Log::forget, nb::arg("pages"))
      .def("before", &Log::before, nb::arg("page"), "What a written page held before.")
      .def("read", &Log::read, nb::arg("begin"), nb::arg("end"), nb::arg("data"))
      .def_prop_ro("written_pages", &Log::written_pages);
}
