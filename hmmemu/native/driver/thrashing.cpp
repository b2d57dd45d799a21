#include "driver/thrashing.h"

namespace hmm {

void Thrashing::begin(Place& place, uint64_t chunk) {
  unpin(place);
  place.events = place.throttles = 0;
  place.owner = kCpu;
  place.chunk = chunk;
  place.page = place.since = place.last = place.keep = 0;
}

void Thrashing::unpin(Place& place) {
  if (place.pinned) pins_.fetch_sub(1, std::memory_order_relaxed);
  place.pinned = 0;
}

Thrashing::Advice Thrashing::Place::note(const ThrashingPolicy& policy, Processor p, uint64_t at,
                                         uint64_t now, bool taken, bool patient) {
  const bool same = page == at;
  if (patient && now >= last + policy.lapse) events = throttles = 0; // who waited is late for that reason
  if (taken && same && patient && now < keep) {
    if (throttles < policy.throttles) ++throttles;
    last = keep; // or the wait would count as peace
    return {.wait_until = keep};
  }
  if (taken && events < policy.events) ++events;
  const bool thrashes = events >= policy.events;
  if (!same) throttles = 0;
  owner = p, page = at, since = last = now;
  keep = thrashes && same ? now + policy.lapse : 0;
  const bool pin = throttles >= policy.throttles || (pinned == at && now < pin_end);
  return {.single = thrashes, .pin = pin};
}

void Thrashing::pin(const ThrashingPolicy& policy, uint64_t page, uint64_t now) {
  Place& place = places_[page / kChunk % kPlaces];
  std::lock_guard guard(place.lock);
  if (place.chunk != page / kChunk) return;
  unpin(place);
  pins_.fetch_add(1, std::memory_order_relaxed);
  place.pinned = page;
  place.pin_end = now + policy.pin * policy.lapse;
  place.throttles = 0;
}

uint64_t Thrashing::take_end_of_pin(Place& place, uint64_t now) {
  std::lock_guard guard(place.lock);
  if (!place.pinned || now < place.pin_end) return 0;
  const uint64_t page = place.pinned;
  unpin(place);
  return page;
}

} // namespace hmm
