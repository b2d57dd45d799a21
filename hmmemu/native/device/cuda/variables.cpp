// Purpose: copy variables of modules to and from their places in shared memory.
#include "variables.h"

#include "gpu_memory.h"
#include "page_bits.h"
#include "residency.h"

#include <algorithm>
#include <shared_mutex>

namespace hmmemu::cuda {
namespace {

constexpr uint64_t kAlignment = 256; // as cuMemAlloc's

std::shared_mutex places_lock;
std::vector<Variables*> places; // of all modules; those that were placed

} // namespace

Variables::~Variables() {
  const std::lock_guard hold(places_lock);
  std::erase(places, this);
}

void Variables::add(Module* module, const std::string& name, const std::string& symbol, bool constant) {
  Variable variable{name, kNowhere, 0, constant, bytes_};
  libcuda().module_variable("find variable " + name, &variable.address, &variable.bytes, module,
                            symbol.c_str());
  bytes_ += (variable.bytes + kAlignment - 1) / kAlignment * kAlignment;
  list_.push_back(variable);
}

void Variables::place(uint64_t base) {
  base_ = base;
  const std::lock_guard hold(places_lock);
  places.push_back(this);
}

std::string Variables::content(const Variable& variable) const {
  std::string bytes(variable.bytes, '\0');
  libcuda().copy_now("read variable " + variable.name, bytes.data(), variable.address, variable.bytes);
  if (bytes.find_first_not_of('\0') == std::string::npos) return "";
  std::string digits;
  for (const char byte : bytes)
    for (const int digit : {uint8_t(byte) >> 4, byte & 15}) digits += "0123456789abcdef"[digit];
  return digits;
}

void Variables::describe(device::JsonWriter& json, bool initial) const {
  for (const Variable& variable : list_) {
    json.open('{').key("name").string(variable.name.c_str()).key("address").number(base_ + variable.place);
    json.key("bytes").number(variable.bytes).key("constant").boolean(variable.constant);
    if (initial) json.key("initial").string(content(variable).c_str());
    json.close('}');
  }
}

bool Variables::has_come() const {
  for (uint64_t page = base_ / device::kPage * device::kPage; page < base_ + bytes_; page += device::kPage)
    if (right(page) == kNone || bits(page).load() & kComing) return false;
  return true;
}

// Pages that are only read may have been taken since the launch had them, and given again for a later one:
// what that needs is not there yet, and it is to look again.
void Variables::before_kernel(Stream* stream) {
  if (!stale_.exchange(false)) return;
  for (const Variable& v : list_)
    libcuda().copy_within("bring variable " + v.name, v.address, gpu().at(base_ + v.place), v.bytes, stream);
  if (!has_come()) stale_ = true;
}

void Variables::after_kernel(Stream* stream) const {
  for (const Variable& v : list_)
    if (!v.constant)
      libcuda().copy_within("keep variable " + v.name, gpu().at(base_ + v.place), v.address, v.bytes, stream);
}

void variables_came(uint64_t begin, uint64_t end) {
  const std::shared_lock hold(places_lock);
  for (Variables* const some : places)
    if (begin < some->base_ + some->bytes_ && some->base_ < end) some->stale_ = true;
}

} // namespace hmmemu::cuda
