// Compiles where each function that libcuda.h declares takes what cuda.h says: as many arguments, each of the
// same size, pointers where it has pointers; and where the structures and numbers are the same. CUDA's
// `Stream*` and our own differ in name.
#include "device/cuda/libcuda.h"
#include <cuda.h>
#include <type_traits>

using namespace hmmemu::cuda;

template <class A, class B>
constexpr bool like = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;
template <class Theirs, class Ours> constexpr bool same = false;
template <class R, class... A, class S, class... B>
constexpr bool same<R (*)(A...), S(B...)> = [] {
  if constexpr (sizeof...(A) == sizeof...(B))
    return like<R, S> && (like<A, B> && ...);
  else
    return false;
}();

#define CHECK(name, symbol, ...) static_assert(same<decltype(&symbol), __VA_ARGS__>, #symbol);
HMMEMU_CUDA_CALLS(CHECK)
#if CUDA_VERSION >= 13000
HMMEMU_CUDA_LATER_CALLS(CHECK)
static_assert(CU_ATOMIC_OPERATION_MAX == kAtomicOperations);
#endif

static_assert(sizeof(AllocationProperties) == sizeof(CUmemAllocationProp));
static_assert(offsetof(AllocationProperties, location) == offsetof(CUmemAllocationProp, location));
static_assert(offsetof(AllocationProperties, compression) == offsetof(CUmemAllocationProp, allocFlags));
static_assert(sizeof(AccessRights) == sizeof(CUmemAccessDesc));
static_assert(AllocationProperties{}.type == CU_MEM_ALLOCATION_TYPE_PINNED);
static_assert(AllocationProperties{}.handles == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
static_assert(Location{}.type == CU_MEM_LOCATION_TYPE_DEVICE);
static_assert(AccessRights{}.rights == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
static_assert(kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY && kNoDevice == CUDA_ERROR_NO_DEVICE);
static_assert(kUnavailable == CUDA_ERROR_DEVICE_UNAVAILABLE && kNotReady == CUDA_ERROR_NOT_READY);
static_assert(kIllegalAddress == CUDA_ERROR_ILLEGAL_ADDRESS &&
              kSystemNotReady == CUDA_ERROR_SYSTEM_NOT_READY);
static_assert(kDriverMismatch == CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
static_assert(kCompatNotSupported == CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE);
static_assert(kNotInitialized == CUDA_ERROR_NOT_INITIALIZED && kInvalidValue == CUDA_ERROR_INVALID_VALUE);
static_assert(kComputeMode == CU_DEVICE_ATTRIBUTE_COMPUTE_MODE &&
              kUnifiedAddressing == CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING);
static_assert(kCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(kCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(kHostNativeAtomics == CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED);
static_assert(kHostPointers == CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
static_assert(kHostRegister == CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED);
static_assert(kHostPageTables == CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES);
static_assert(kSharedBytesOptIn == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(kVirtualMemory == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
#if CUDA_VERSION >= 12000
static_assert(kStreamWrites == CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS);
static_assert(CU_STREAM_WRITE_VALUE_DEFAULT == 0);
#endif
static_assert(kFileDescriptors == CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
static_assert(kComputeProhibited == CU_COMPUTEMODE_PROHIBITED &&
              kComputeExclusive == CU_COMPUTEMODE_EXCLUSIVE_PROCESS);
