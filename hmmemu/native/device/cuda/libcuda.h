// The CUDA driver API, found at run time: libcuda.so.1 comes with NVIDIA's driver, and a program that was
// linked with it would not start elsewhere. No CUDA header is needed to build: what is used is declared here,
// with the types of cuda.h by size (tests/unit/cuda compares with a cuda.h where there is one).
//
// Invariants: a function is called through its `Call`, which turns any result but 0 into a CudaError that
// says what was being done, on which GPU, what the driver says of it and what to do. `libcuda()` loads once;
// everything here may be called by any thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace hmmemu::cuda {

using Result = int; // CUresult
using Gpu = int;    // CUdevice
// An address as the GPU has it. A type of its own, as the CPU's need not be the same: only `GpuMemory::at`
// makes one of those.
enum class Address : unsigned long long {};
inline constexpr Address kNowhere{};
constexpr Address operator+(Address at, uint64_t bytes) { return Address(uint64_t(at) + bytes); }
using Memory = unsigned long long; // CUmemGenericAllocationHandle
struct Context;
struct Stream;
struct Module;
struct Function;

enum : Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kUnavailable = 46,
  kNoDevice = 100,
  kNotReady = 600,
  kIllegalAddress = 700,
  kSystemNotReady = 802,
  kDriverMismatch = 803,
  kCompatNotSupported = 804,
};

// CUdevice_attribute
enum Attribute : int {
  kComputeMode = 20,
  kUnifiedAddressing = 41,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kHostNativeAtomics = 86,
  kHostPointers = 91, // memory of the CPU that is registered has the same address here and there
  kSharedBytesOptIn = 97,
  kHostRegister = 99,
  kHostPageTables = 100, // the GPU uses the CPU's page tables: the link is coherent
  kVirtualMemory = 102,
  kFileDescriptors = 103,
  kStreamWrites = 122, // CAN_USE_64_BIT_STREAM_MEM_OPS, of CUDA 11.7's operations
};
// CUfunction_attribute
enum : int { kMaxThreads = 0, kStaticShared = 1, kMostDynamicShared = 8 };
inline constexpr int kAtomicOperations = 13; // CUatomicOperation, from 0
enum : int { kComputeProhibited = 2, kComputeExclusive = 3 };

struct Location {
  int type = 1; // CU_MEM_LOCATION_TYPE_DEVICE
  int id = 0;
};
struct AllocationProperties { // CUmemAllocationProp
  int type = 1;               // CU_MEM_ALLOCATION_TYPE_PINNED
  int handles = 1;            // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
  Location location;
  void* windows = nullptr;
  unsigned char compression = 0, rdma = 0;
  unsigned short usage = 0;
  unsigned char reserved[4] = {};
};
struct AccessRights { // CUmemAccessDesc
  Location location;
  int rights = 3; // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
};

class CudaError : public std::runtime_error {
 public:
  CudaError(Result result, const std::string& message) : std::runtime_error(message), result(result) {}
  const Result result; // 0: the library or a function of it is missing
};

// Whether this result is that of every call from then on: a kernel or the hardware failed (cuda.h: "the
// process must be terminated and relaunched").
constexpr bool breaks_context(Result result) {
  return result == 226 /* contained */ || result == kIllegalAddress || result == 702 /* timeout */ ||
         result == 710 /* assert */ ||
         (result >= 714 && result <= 719) /* stack, instruction, alignment... */ ||
         result == 721 /* tensor memory */;
}

// Throws a CudaError for a result that is not 0. `doing`: "map 2 MiB of GPU 0", for example.
void check(Result result, const char* function, const std::string& doing);

template <class Signature> class Call;
template <class... Args> class Call<Result(Args...)> {
 public:
  using Pointer = Result (*)(Args...);
  explicit Call(const char* name) : name_(name) {}
  void found(void* symbol) { call_ = reinterpret_cast<Pointer>(symbol); }
  const char* name() const { return name_; }
  bool there() const { return call_ != nullptr; }
  // The bare result, for those who expect more than one.
  Result ask(Args... args) const { return call_(args...); }
  void operator()(const std::string& doing, Args... args) const { check(call_(args...), name_, doing); }

 private:
  const char* name_;
  Pointer call_ = nullptr;
};

// Name here, symbol, signature. CUDA 11.2 has all of them.
#define HMMEMU_CUDA_CALLS(CALL)                                                                              \
  CALL(init, cuInit, Result(unsigned))                                                                       \
  CALL(error_name, cuGetErrorName, Result(Result, const char**))                                             \
  CALL(error_string, cuGetErrorString, Result(Result, const char**))                                         \
  CALL(driver_version, cuDriverGetVersion, Result(int*))                                                     \
  CALL(device_count, cuDeviceGetCount, Result(int*))                                                         \
  CALL(device_get, cuDeviceGet, Result(Gpu*, int))                                                           \
  CALL(device_name, cuDeviceGetName, Result(char*, int, Gpu))                                                \
  CALL(device_memory, cuDeviceTotalMem_v2, Result(size_t*, Gpu))                                             \
  CALL(attribute, cuDeviceGetAttribute, Result(int*, int, Gpu))                                              \
  CALL(bus, cuDeviceGetPCIBusId, Result(char*, int, Gpu))                                                    \
  CALL(context_retain, cuDevicePrimaryCtxRetain, Result(Context**, Gpu))                                     \
  CALL(context_release, cuDevicePrimaryCtxRelease_v2, Result(Gpu))                                           \
  CALL(context_set, cuCtxSetCurrent, Result(Context*))                                                       \
  CALL(memory_info, cuMemGetInfo_v2, Result(size_t*, size_t*))                                               \
  CALL(granularity, cuMemGetAllocationGranularity, Result(size_t*, const AllocationProperties*, int))        \
  CALL(reserve, cuMemAddressReserve, Result(Address*, size_t, size_t, Address, unsigned long long))          \
  CALL(unreserve, cuMemAddressFree, Result(Address, size_t))                                                 \
  CALL(create, cuMemCreate, Result(Memory*, size_t, const AllocationProperties*, unsigned long long))        \
  CALL(release, cuMemRelease, Result(Memory))                                                                \
  CALL(export_memory, cuMemExportToShareableHandle, Result(void*, Memory, int, unsigned long long))          \
  CALL(import_memory, cuMemImportFromShareableHandle, Result(Memory*, void*, int))                           \
  CALL(map, cuMemMap, Result(Address, size_t, size_t, Memory, unsigned long long))                           \
  CALL(unmap, cuMemUnmap, Result(Address, size_t))                                                           \
  CALL(set_access, cuMemSetAccess, Result(Address, size_t, const AccessRights*, size_t))                     \
  CALL(pin, cuMemHostRegister_v2, Result(void*, size_t, unsigned))                                           \
  CALL(unpin, cuMemHostUnregister, Result(void*))                                                            \
  CALL(host_address, cuMemHostGetDevicePointer_v2, Result(Address*, void*, unsigned))                        \
  CALL(copy_in, cuMemcpyHtoDAsync_v2, Result(Address, const void*, size_t, Stream*))                         \
  CALL(copy_out, cuMemcpyDtoHAsync_v2, Result(void*, Address, size_t, Stream*))                              \
  CALL(copy_now, cuMemcpyDtoH_v2, Result(void*, Address, size_t))                                            \
  CALL(copy_within, cuMemcpyDtoDAsync_v2, Result(Address, Address, size_t, Stream*))                         \
  CALL(fill, cuMemsetD8Async, Result(Address, unsigned char, size_t, Stream*))                               \
  CALL(stream_create, cuStreamCreate, Result(Stream**, unsigned))                                            \
  CALL(stream_destroy, cuStreamDestroy_v2, Result(Stream*))                                                  \
  CALL(stream_wait, cuStreamSynchronize, Result(Stream*))                                                    \
  CALL(stream_query, cuStreamQuery, Result(Stream*))                                                         \
  CALL(module_load, cuModuleLoadData, Result(Module**, const void*))                                         \
  CALL(module_unload, cuModuleUnload, Result(Module*))                                                       \
  CALL(module_variable, cuModuleGetGlobal_v2, Result(Address*, size_t*, Module*, const char*))               \
  CALL(module_function, cuModuleGetFunction, Result(Function**, Module*, const char*))                       \
  CALL(function_get, cuFuncGetAttribute, Result(int*, int, Function*))                                       \
  CALL(function_set, cuFuncSetAttribute, Result(Function*, int, int))                                        \
  CALL(launch, cuLaunchKernel,                                                                               \
       Result(Function*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Stream*,      \
              void**, void**))

// Those that a driver may lack: `there()` is asked first. The first is of CUDA 13.0, the second of 11.7.
#define HMMEMU_CUDA_LATER_CALLS(CALL)                                                                        \
  CALL(host_atomics, cuDeviceGetHostAtomicCapabilities, Result(unsigned*, const int*, unsigned, Gpu))        \
  CALL(write_behind, cuStreamWriteValue64_v2, Result(Stream*, Address, uint64_t, unsigned))

struct Libcuda {
#define HMMEMU_CUDA_MEMBER(name, symbol, ...) Call<__VA_ARGS__> name{#symbol};
  HMMEMU_CUDA_CALLS(HMMEMU_CUDA_MEMBER)
  HMMEMU_CUDA_LATER_CALLS(HMMEMU_CUDA_MEMBER)
#undef HMMEMU_CUDA_MEMBER
};

// Loads the library and calls cuInit, with the environment that this process needs. HMMEMU_LIBCUDA names
// another file than libcuda.so.1. Throws CudaError.
const Libcuda& libcuda();

int attribute(Gpu gpu, Attribute which);

// The GPU's context in this process (the "primary" one), kept until it ends. Where a GPU allows one process
// only, one that has just ended may have it a moment longer: waits for that, a few seconds. Throws CudaError.
Context* open_context(Gpu gpu, const std::string& doing);

} // namespace hmmemu::cuda
