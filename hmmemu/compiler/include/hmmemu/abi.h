// What a compiled kernel module and the program that loads it (hmmemu-device) owe each other.
//
// Both sides include this file and nothing else of one another. A module is a shared object that exports
// `hmmemu_module()`. The loader exports `hmmemu_worker_self` and `hmmemu_global_address` (below). Kernels are
// run by ranges of blocks: the loader's workers call `hmm_kernel::run` with disjoint ranges, each worker with
// its own `hmm_worker`. C layout only: no C++ type crosses this line.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define HMMEMU_ABI 4u

#define HMM_SHARED_BYTES (256u * 1024u) // block-shared memory of a worker: static and dynamic together
#define HMM_MAX_THREADS 1024u           // threads a block, as in CUDA
#define HMM_STACK_BYTES (64u * 1024u)   // stack of one fiber, its guard page included

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint32_t x, y, z;
} hmm_dim3;

// Why a kernel stopped before its end.
enum hmm_failure {
  HMM_FAIL_ASSERT = 1,
  HMM_FAIL_TRAP = 2,
  HMM_FAIL_BARRIER = 3,
  HMM_FAIL_LIMIT = 4,
  HMM_FAIL_ATOMIC = 5
};

typedef struct hmm_worker hmm_worker;

// What atomics of system scope can do over the link to the CPU.
typedef struct {
  // One bit for each operation and size, on unsigned ([0]) and on signed types ([1]): bit
  // 4 * hmm_atomic_op + log2(bytes / 2). HMM_NATIVE_FLOATS is float2 and float4.
  uint64_t native[2];
  uint32_t fallback; // hmm_fallback, for the others
  uint32_t reserved;
} hmm_link;
enum hmm_atomic_op { // as cudaAtomicOperation
  HMM_ATOMIC_ADD,
  HMM_ATOMIC_MIN,
  HMM_ATOMIC_MAX,
  HMM_ATOMIC_INC,
  HMM_ATOMIC_DEC,
  HMM_ATOMIC_AND,
  HMM_ATOMIC_OR,
  HMM_ATOMIC_XOR,
  HMM_ATOMIC_EXCH,
  HMM_ATOMIC_CAS,
  HMM_ATOMIC_FLOAT_ADD,
  HMM_ATOMIC_FLOAT_MIN,
  HMM_ATOMIC_FLOAT_MAX
};
#define HMM_NATIVE_FLOATS (1ull << (4 * HMM_ATOMIC_FLOAT_ADD + 3))

enum hmm_fallback {
  HMM_FALLBACK_MIGRATE,  // the page moves to the device, which does it there
  HMM_FALLBACK_CAS_LOOP, // compare-and-swap over the link, until it succeeds
  HMM_FALLBACK_FAULT,    // the kernel ends with an error
  HMM_FALLBACK_SILENT,   // nothing is written
  HMM_FALLBACK_EXCLUSIVE // done where the page is, which the CPU cannot reach meanwhile
};

// How an atomic operation was done.
enum hmm_atomic_done {
  HMM_DONE_LOCAL,    // in __shared__ memory or the thread's own
  HMM_DONE_THERE,    // in the device's memory, where the page was
  HMM_DONE_MOVED,    // in the device's memory, after this operation's page fault had brought the page
  HMM_DONE_IN_PLACE, // over the link, in the CPU's memory
  HMM_DONE_CAS_LOOP, // ... by compare-and-swap
  HMM_DONE_LOST,     // nothing was written (HMM_FALLBACK_SILENT)
  HMM_DONE_FAULT,    // the kernel ended (HMM_FALLBACK_FAULT)
  HMM_DONE_EXCLUSIVE // in the CPU's memory, after its page fault had taken the page from the CPU
};

// Operations that are counted together.
typedef struct {
  uint32_t site;  // number of the operation in the source
  uint16_t array; // 1 + the number of the pointer argument that it went to; 0: other memory
  uint8_t operation, bytes, lanes, is_signed;
  uint8_t scope; // 0 block, 1 device, 2 system
  uint8_t done;  // hmm_atomic_done
  uint32_t reserved;
} hmm_atomic_kind;
typedef struct {
  uint64_t kernel; // handle; 0: the entry is free
  hmm_atomic_kind kind;
  uint64_t count;
  uint64_t low, high; // lowest and highest address
} hmm_atomic_count;

// What one worker's atomic operations were, in modules that are compiled to count them. No other worker
// writes its cache lines.
#define HMM_ATOMIC_COUNTS 2048u
typedef struct {
  hmm_atomic_kind next; // of the operation that comes next or runs; site 0: it is not counted
  uint64_t lost;        // operations for which the table had no entry left
  hmm_atomic_count counts[HMM_ATOMIC_COUNTS];
} hmm_atomic_log;

// Services of the loader, called from kernels.
typedef struct {
  // Appends to the launch's printf buffer. Never blocks; text past the buffer's end is counted and dropped.
  void (*print)(hmm_worker*, const char* text, size_t bytes);
  // Ends the kernel with an error. `message` is the whole text for the user. Does not return.
  void (*fail)(hmm_worker*, int failure, const char* message) __attribute__((noreturn));
  // Called now and then by code that may spin, so that another worker or process can run.
  void (*yield)(hmm_worker*);
  // The same for code that does nothing but wait: may sleep, the longer the longer the wait lasts.
  void (*wait)(hmm_worker*);
  // The worker's own entry for the page of `address` goes, so that its next access faults: what `wanted` says
  // is done then.
  void (*own)(hmm_worker*, const void* address);
} hmm_services;

// The memory behind a pointer argument, so that operations can be counted by argument.
#define HMM_EXTENTS 32u
typedef struct {
  uint64_t begin, end;
  uint32_t parameter, reserved;
} hmm_extent;

typedef struct {
  hmm_dim3 grid, block;
  uint32_t dynamic_shared; // bytes of `extern __shared__`
  uint32_t flags;
  const void* params;        // parameter block: parameter i at hmm_param::offset, 16-byte aligned
  uint64_t kernel;           // handle
  const hmm_extent* extents; // only where operations are counted
  uint32_t extent_count, reserved;
} hmm_launch;

// One worker thread of the device. The loader fills the first part once; the kernel runtime keeps the second
// part up to date, because the loader's fault handler reads it to say where a kernel was.
struct hmm_worker {
  uint32_t index; // 0 .. workers-1
  uint32_t reserved;
  unsigned char* shared; // HMM_SHARED_BYTES, 4 KiB aligned
  unsigned char* stacks; // HMM_MAX_THREADS stacks of HMM_STACK_BYTES; the lowest page of each is a guard
  const hmm_services* services;
  const hmm_link* link;        // NULL: every operation is done in the device's memory
  volatile uint64_t* wanted;   // the page of the latest atomic operation, and what a page fault there is for
  const unsigned char* remote; // one bit a page of the address space: the CPU uses it, too, over the link
  // Page faults of this worker for which pages were brought; in the upper half, for which one stayed in the
  // CPU's memory, and the CPU lost it (fallback exclusive).
  const volatile uint32_t* brought;
  hmm_atomic_log* log;        // NULL: nothing is counted
  const unsigned char* stack; // the thread's own stack, apart from `stacks`
  size_t stack_bytes;
  const hmm_launch* volatile launch; // that runs now
  void* runtime; // the kernel runtime's own (NULL at first; it may mmap what it needs and keep it)

  volatile hmm_dim3 block;  // the block that runs now
  volatile hmm_dim3 thread; // the thread that runs now, where `thread_known`
  volatile uint32_t thread_known;
};

enum hmm_launch_flags {
  HMM_LAUNCH_PRECISE =
      1 // keep `thread` exact before every thread's code, at any price (used to find a fault)
};

enum hmm_param_kind {
  HMM_PARAM_POINTER = 1,
  HMM_PARAM_INTEGER,
  HMM_PARAM_FLOATING,
  HMM_PARAM_BOOL,
  HMM_PARAM_OTHER
};

typedef struct {
  const char* name;       // as in the source; "" for an unnamed parameter
  const char* type;       // as in the source
  uint32_t offset, size;  // bytes in the parameter block
  uint32_t kind;          // hmm_param_kind
  uint32_t is_signed;     // integers
  uint32_t pointee_const; // pointers: `const T*`
  uint32_t pointee_size;  // pointers: sizeof(T), 0 for void and functions
} hmm_param;

typedef struct {
  const char* name; // what the user asks for: plain name, or the name expression
  const char* mode; // how it runs: "loop", "fission", "fiber"
  const hmm_param* params;
  uint32_t param_count, param_bytes;
  uint32_t static_shared; // bytes of `__shared__`
  uint32_t max_threads;   // from __launch_bounds__, else HMM_MAX_THREADS
  uint32_t waits;         // a block may wait for what another block writes
  uint32_t reserved;
  // Runs blocks [first, end) of the launch, numbered x first, then y, then z, on the calling thread.
  void (*run)(hmm_worker*, const hmm_launch*, uint64_t first, uint64_t end);
} hmm_kernel;

typedef struct {
  const char* name;
  const char* type;
  void* address; // in shared memory, the same in every process
  uint64_t bytes;
  uint32_t constant; // declared __constant__
  uint32_t reserved;
} hmm_global;

typedef struct {
  uint32_t abi; // HMMEMU_ABI
  uint32_t kernel_count, global_count, reserved;
  const hmm_kernel* kernels;
  const hmm_global* globals;
} hmm_module;

// Exported by every module.
const hmm_module* hmmemu_module(void);

// Exported by the loader. Called by a module's constructors, once for each __device__ or __constant__
// variable: returns the variable's address in shared memory. The loader has copied `initial` there, unless
// the module was loaded before into this space (then the variable keeps its value).
void* hmmemu_global_address(const char* name, size_t bytes, size_t align, const void* initial);

// Exported by the loader: the calling thread's worker (static TLS of the executable: initial-exec is safe).
#ifdef __cplusplus
extern thread_local hmm_worker* hmmemu_worker_self;
#else
extern _Thread_local hmm_worker* hmmemu_worker_self;
#endif

#ifdef __cplusplus
}
#endif
