// Purpose: load kernels/pages.cu's image and launch its kernels. `lock` guards the loading; afterwards
// `state` alone is read.
#include "page_kernels.h"

#include "device/futex.h"
#include "device/process/device.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

enum Which { kGather, kScatter, kFindChanged, kCount };
constexpr std::array<const char*, kCount> kNames = {"gather_pages", "scatter_pages", "find_changed_pages"};
constexpr uint64_t kRestLimit = 60'000'000'000;        // ns
constexpr unsigned kThreads = 256, kMostBlocks = 1024; // a block moves a page at a time

enum State : int { kUnknown, kReady, kNone };
std::atomic<int> state{kUnknown};
std::atomic<bool> resting{false};
std::atomic<unsigned> users{0};
std::mutex lock;
std::array<Function*, kCount> functions;

// The symbols by kernel, and the image behind the table: see modules.cpp for the file.
std::map<std::string, std::string> read_symbols(std::istream& file) {
  std::map<std::string, std::string> symbols;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    std::stringstream fields(line);
    std::string kind, name, symbol;
    if (std::getline(fields, kind, '\t') && kind == "kernel" && std::getline(fields, name, '\t') &&
        std::getline(fields, symbol, '\t'))
      symbols[name] = symbol;
  }
  return symbols;
}

void load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw CudaError(0, path + " cannot be read");
  const std::map<std::string, std::string> symbols = read_symbols(file);
  const std::string image{std::istreambuf_iterator<char>(file), {}};
  Module* module = nullptr;
  libcuda().module_load("load " + path, &module, image.c_str());
  for (int i = 0; i < kCount; i++) {
    const auto found = symbols.find(kNames[size_t(i)]);
    if (found == symbols.end()) throw CudaError(0, path + " has no kernel " + kNames[size_t(i)]);
    libcuda().module_function("find kernel " + found->first, &functions[size_t(i)], module,
                              found->second.c_str());
  }
}

// Caller must hold the lock.
void turn_off(const std::string& reason) {
  char (&place)[256] = device::channel->no_page_kernels;
  if (!*place) snprintf(place, sizeof place, "%s", reason.c_str());
  state = kNone;
}

struct Params { // of all three
  Address first, second;
  int count, unused;
  Address third;
};

bool launch(Which which, Params params, Stream* stream) {
  size_t bytes = sizeof params;
  // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
  void* extra[] = {reinterpret_cast<void*>(1), &params, reinterpret_cast<void*>(2), &bytes, nullptr};
  try {
    libcuda().launch(std::string("launch ") + kNames[which], functions[which],
                     std::min(unsigned(params.count), kMostBlocks), 1, 1, kThreads, 1, 1, 0, stream, nullptr,
                     extra);
    return true;
  } catch (const CudaError& error) {
    const std::lock_guard hold(lock);
    turn_off(error.what());
    return false;
  }
}

} // namespace

bool has_page_kernels() {
  if (const int now = state; now != kUnknown) return now == kReady;
  const std::lock_guard hold(lock);
  if (state != kUnknown) return state == kReady;
  const char* const path = device::channel->page_kernels;
  if (!*path) return false; // none yet
  try {
    load(path);
    state = kReady;
  } catch (const CudaError& error) {
    turn_off(error.what());
  }
  return state == kReady;
}

// Who uses them says so first and looks then, and who has them rest does the same: one sees the other.
std::unique_ptr<PageKernels> PageKernels::use() {
  std::unique_ptr<PageKernels> user(new PageKernels);
  users++;
  if (resting || !has_page_kernels()) user.reset();
  return user;
}
PageKernels::~PageKernels() { users--; }

PageKernelsRest::PageKernelsRest() {
  has_page_kernels();
  resting = true;
  const uint64_t limit = device::now_ns() + kRestLimit; // the GPU may hang; the CPU process ends that
  while (users.load() != 0 && device::now_ns() < limit) usleep(20);
}
PageKernelsRest::~PageKernelsRest() { resting = false; }

bool gather_pages(Address pages, int count, Address buffer, Stream* stream) {
  return launch(kGather, {kNowhere, pages, count, 0, buffer}, stream);
}

bool scatter_pages(Address pages, int count, Address buffer, Stream* stream) {
  return launch(kScatter, {kNowhere, pages, count, 0, buffer}, stream);
}

bool find_changed_pages(Address now, Address before, int count, Address changed, Stream* stream) {
  return launch(kFindChanged, {now, before, count, 0, changed}, stream);
}

} // namespace hmmemu::cuda
