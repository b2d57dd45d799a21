// Purpose: load libcuda.so.1 and put its errors into words.
#include "libcuda.h"

#include <cstdlib>
#include <dlfcn.h>
#include <unistd.h>

namespace hmmemu::cuda {
namespace {

const char* advice(Result result) {
  switch (result) {
  case kOutOfMemory:
    return "free memory of this GPU (nvidia-smi shows who has it), or give the space a limit: "
           "device_memory=...";
  case kNoDevice:
    return "no GPU is visible: look at CUDA_VISIBLE_DEVICES; a container needs --gpus";
  case kUnavailable:
    return "another process has the GPU for itself: nvidia-smi --compute-mode=DEFAULT lets several use it";
  case kSystemNotReady:
    return "the GPUs of this machine are not ready: is nvidia-fabricmanager running?";
  case kDriverMismatch:
    return "libcuda.so.1 and the loaded driver are of different versions: reboot, or reinstall the driver";
  case kCompatNotSupported:
    return "this libcuda.so.1 (of a forward compatibility package?) does not support this GPU: use the "
           "driver's own";
  case kNotInitialized:
    return "is the NVIDIA driver loaded, and are its devices (/dev/nvidia*) there and open to this user?";
  default:
    return "";
  }
}

// What the driver says of a result, and what to do.
std::string words(const Libcuda& cuda, Result result) {
  const char *name = nullptr, *text = nullptr;
  cuda.error_name.ask(result, &name);
  cuda.error_string.ask(result, &text);
  const std::string what = text ? text : "a result that this driver has no words for";
  const std::string todo = *advice(result) ? std::string("; ") + advice(result) : "";
  return what + " (" + (name ? name : std::to_string(result)) + ")" + todo;
}

void* open_library() {
  const char* const given = std::getenv("HMMEMU_LIBCUDA");
  const std::string path = given && *given ? given : "libcuda.so.1";
  if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  const char* const reason = dlerror();
  throw CudaError(0, path + " cannot be loaded: " + (reason ? reason : "unknown reason") +
                         "; NVIDIA's driver is not installed here (a container needs --gpus)");
}

template <class C> void find(void* library, C& call) {
  void* const symbol = dlsym(library, call.name());
  if (!symbol)
    throw CudaError(0, std::string("libcuda.so.1 has no ") + call.name() +
                           ": hmmemu needs a driver of CUDA 11.2 or later (460.27)");
  call.found(symbol);
}

// Whatever the user wants for other programs: this process would wait for itself otherwise. While a kernel
// waits for the CPU, pages cross on other streams; streams that share a connection run one after the other,
// and there are 8 of those unless more are asked for. A kernel that is loaded at its first use may be loaded
// while such a one runs, and loading waits for what runs.
// https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
// https://docs.nvidia.com/cuda/cuda-programming-guide/04-special-topics/lazy-loading.html (Potential Hazards)
void set_environment() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);
}

Libcuda load() {
  set_environment();
  void* const library = open_library();
  Libcuda found;
#define HMMEMU_CUDA_FIND(name, ...) find(library, found.name);
  HMMEMU_CUDA_CALLS(HMMEMU_CUDA_FIND)
#undef HMMEMU_CUDA_FIND
#define HMMEMU_CUDA_LOOK(name, symbol, ...) found.name.found(dlsym(library, #symbol));
  HMMEMU_CUDA_LATER_CALLS(HMMEMU_CUDA_LOOK)
#undef HMMEMU_CUDA_LOOK
  return found;
}

const Libcuda& loaded() {
  static const Libcuda library = load();
  return library;
}

Result initialise() {
  static const Result result = loaded().init.ask(0);
  return result;
}

} // namespace

const Libcuda& libcuda() {
  const Libcuda& library = loaded();
  if (const Result result = initialise())
    throw CudaError(result, "CUDA cannot be used: " + words(library, result));
  return library;
}

void check(Result result, const char* function, const std::string& doing) {
  if (result != kSuccess)
    throw CudaError(result, "cannot " + doing + ": " + function + ": " + words(loaded(), result));
}

int attribute(Gpu gpu, Attribute which) {
  int value = 0;
  libcuda().attribute("ask GPU " + std::to_string(gpu) + " for attribute " + std::to_string(which), &value,
                      which, gpu);
  return value;
}

Context* open_context(Gpu gpu, const std::string& doing) {
  constexpr int kLooks = 50;
  constexpr useconds_t kBetween = 100'000;
  Context* context = nullptr;
  Result result = libcuda().context_retain.ask(&context, gpu);
  for (int look = 1; result == kUnavailable && look < kLooks; look++) {
    usleep(kBetween);
    result = libcuda().context_retain.ask(&context, gpu);
  }
  check(result, libcuda().context_retain.name(), doing);
  return context;
}

} // namespace hmmemu::cuda
