// The protocol: one pure function. The driver runs it; the tests explore it exhaustively; nothing else
// knows the rules.
//
//            Read by p                                 Write by p
//   p: S/X   nothing (hit)                             p is X: nothing (hit)
//   p: S                                               zap the other readers, then let p write     (upgrade)
//   p: I     somebody holds it: protect the writer     protect the writer, take the content,
//            if there is one, copy to p read-only      zap all others, map at p writable           (migrate)
//            (duplicate)
//   nobody   zeros at p, writable                      zeros at p, writable                    (first touch)
//   Remote   hit, also where p is the CPU; another device maps the frame, too            (remote)
//            a CPU that lost its mapping gets it back first                              (admit)
//   watched  as above, but p may not write             tell the protectors, page watched no more, then
//                                                      as above                                     (notify)
//
// Atomic by p, where the link has the operation: nothing if p is X or Remote. Else the CPU gets the page
// alone, as by a write of its own, and p maps the CPU's frame (remote). Memory whose frames p cannot map: as
// a write. Own by p: as a write, but that Remote is not enough: of a page that devices map, all lose it first
// (recall). Alone by p: as Atomic, but that the mappings of the CPU and of other devices go meanwhile
// (exclude); no content moves. Share by p: as Atomic, also if p is X.
//
// Without read duplication a read takes the only copy, as a write does. ORDER of the actions, which makes
// them safe while every processor keeps running: protect -> take the content -> zap -> map. At no moment can
// one processor write while another still reads an older copy.
//
// A page with several owners, which has a state for each address, has one frame for the CPU. The same rule,
// one level up: one owner whose processors may write, or many that read. An access through one owner settles
// the others before it (`settling`); who reads gets a Shared copy, also where it would be the only one.
//   - The frame holds the newest content as long as the CPU holds it through any owner.
//   - Where devices alone hold an owner's page, or somebody may write it, no other owner holds anything.
//
// Under the tracker `async` the CPU's stores to a Shared page are seen later, not caught: while the CPU holds
// such a page its copy counts as the newest, and a device that wants to write takes it from there. While a
// kernel runs that waits for others (`all_caught`), nobody shares such a page with the CPU: reads take it,
// too.
//
// The rules are those of a directory MSI protocol; in NVIDIA's driver the same cases are read duplication and
// migration on fault (open-gpu-kernel-modules, kernel-open/nvidia-uvm/uvm_va_block.c).
#pragma once
#include "protocol/state.h"

namespace hmm {

enum class Step : uint8_t {
  None,    // p has the rights already
  Notify,  // protectors first; then ask again
  Admit,   // the CPU's mapping of a frame that a device had alone comes back; then ask again
  Recall,  // the devices that are Remote lose their mappings; then ask again
  Home,    // a write of the CPU first; then ask again
  Remote,  // p maps the CPU's frame; the CPU may lose its mapping
  Exclude, // p maps the CPU's frame, and the CPU and other devices lose their mappings
  FirstTouch,
  Duplicate, // read-only copy at p
  Migrate,   // the only copy moves to p
  Upgrade,   // p's read-only copy becomes the only one
  Drop,      // a copy goes, others stay
};

struct Transition {
  Step step = Step::None;
  Processor source = kCpu; // where the content comes from (Duplicate, Migrate)
  bool protect = false;    // `source` may be writing: write-protect it first
  uint16_t zap = 0;        // processors whose copy, or mapping, goes, one bit each
  PageState next;

  friend bool operator==(const Transition&, const Transition&) = default;
};

// About pages that stay in the CPU's memory (driver/remote.cpp).
inline bool is_over_the_link(const Transition& t) {
  return t.step == Step::Admit || t.step == Step::Recall || t.step == Step::Home || t.step == Step::Remote ||
         t.step == Step::Exclude;
}

struct ProtocolPolicy {
  bool read_duplication = true;
  bool all_caught = false; // no new copies of what the CPU may write without being caught
};

// Whether a page may stay in the CPU's memory while a device works on it.
bool lendable(PageState state);

Transition transition(PageState state, Processor p, Access access, ProtocolPolicy policy);

// What another owner of a page gives up before an access. In this order: its content goes to the frame, if
// only devices have it (the CPU reads it then); the CPU may write no more; the copies go.
struct Settling {
  bool show = false;
  bool protect = false;
  uint16_t zap = 0;
  PageState next;

  friend bool operator==(const Settling&, const Settling&) = default;
};

Settling settling(PageState other, Access access);

// A device gives up its copy (eviction). The only copy goes to the CPU, and that is no write: protectors of
// the page hear nothing.
Transition eviction(PageState state, Processor p);

// The oracle. nullptr if `state` is allowed, else the broken rule in words.
const char* broken_rule(PageState state);

} // namespace hmm
