// printf and assert in kernels.
//
// printf is not a macro: this file defines the symbol itself, hidden, so that every call in the
// module ends here, also std::printf and the puts and putchar that compilers turn simple calls
// into. A call becomes one piece of text for the loader, which keeps pieces of different threads
// apart.
#pragma once

#define HMM_PRINT_BYTES 8192 // of one printf; longer text is cut and says so

extern "C" {
int printf(const char* format, ...);
int hmm_vsnprintf(char* to, size_t bytes, const char* format, __builtin_va_list) HMM_NOTHROW
    __asm__("vsnprintf");

#define HMM_HIDDEN __attribute__((visibility("hidden"), used)) HMM_COLD
HMM_HIDDEN int hmm_printf(const char* format, ...);
HMM_HIDDEN int hmm_puts(const char* text);
HMM_HIDDEN int hmm_putchar(int character);
[[noreturn]] HMM_HIDDEN void hmm___assert_fail(const char* expression, const char* file, unsigned line,
                                               const char* function);
#undef HMM_HIDDEN
}
// By the assembler, since <stdio.h> may hold inline definitions under these names.
#define HMM_SYMBOL(name) __asm__(".globl " #name "\n.hidden " #name "\n.set " #name ", hmm_" #name "\n");
HMM_SYMBOL(printf)
HMM_SYMBOL(puts)
HMM_SYMBOL(putchar)
HMM_SYMBOL(__assert_fail)
#undef HMM_SYMBOL

namespace hmm_cuda {

inline void hmm_print(const char* text, size_t bytes) {
  hmm_worker* worker = hmmemu_worker_self;
  worker->services->print(worker, text, bytes);
}

// How many arguments a format takes: printf's result in CUDA.
inline int hmm_count_arguments(const char* format) {
  int count = 0;
  for (const char* p = format; *p; ++p) {
    if (*p != '%') continue;
    ++p;
    for (; *p && __builtin_strchr("-+ #0123456789.*hlLqjzt", *p); ++p) count += *p == '*';
    if (!*p) break;
    count += *p != '%';
  }
  return count;
}

} // namespace hmm_cuda

int hmm_printf(const char* format, ...) {
  if (!format) return -1;
  char text[HMM_PRINT_BYTES];
  __builtin_va_list arguments;
  __builtin_va_start(arguments, format);
  int length = hmm_vsnprintf(text, sizeof text, format, arguments);
  __builtin_va_end(arguments);
  if (length < 0) return -2;
  if (length >= HMM_PRINT_BYTES) {
    const char cut[] = "... [printf cut at 8 KiB]\n";
    __builtin_memcpy(text + sizeof text - sizeof cut, cut, sizeof cut);
    length = sizeof text - 1;
  }
  hmm_cuda::hmm_print(text, (size_t)length);
  return hmm_cuda::hmm_count_arguments(format);
}
int hmm_puts(const char* text) { return hmm_printf("%s\n", text), 0; }
int hmm_putchar(int character) { return hmm_printf("%c", character), character; }

namespace hmm_cuda {

// Where the calling thread is: `block` and `thread` are variables of type hmm_dim3; false if the thread is
// not known. The runtime defines a better answer before this file: it knows fibers.
#ifndef HMM_THREAD_POSITION
#define HMM_THREAD_POSITION(block, thread) hmm_cuda::hmm_recorded_position(block, thread)
#endif
inline bool hmm_recorded_position(hmm_dim3& block, hmm_dim3& thread) {
  const hmm_worker* w = hmmemu_worker_self;
  block.x = w->block.x, block.y = w->block.y, block.z = w->block.z;
  thread.x = w->thread.x, thread.y = w->thread.y, thread.z = w->thread.z;
  return w->thread_known != 0;
}

} // namespace hmm_cuda

// Ends the kernel with CUDA's own text. Under libc's name for the same, because with `ziglang` the system's
// <assert.h> comes before ours.
void hmm___assert_fail(const char* expression, const char* file, unsigned line, const char* function) {
  hmm_dim3 block, thread;
  char where[48] = "[?]", text[2048];
  if (HMM_THREAD_POSITION(block, thread))
    __builtin_snprintf(where, sizeof where, "[%u,%u,%u]", thread.x, thread.y, thread.z);
  __builtin_snprintf(text, sizeof text, "%s:%u: %s: block: [%u,%u,%u], thread: %s Assertion `%s` failed.",
                     file, line, function, block.x, block.y, block.z, where, expression);
  hmm_cuda::hmm_fail(HMM_FAIL_ASSERT, text);
}

#define HMM_ASSERT(text, ...)                                                                                \
  ((__VA_ARGS__) ? (void)0 : hmm___assert_fail(text, __FILE__, __LINE__, __func__))

// Without any header, as NVRTC has it; <assert.h> is ours too (stub/assert.h).
#ifdef NDEBUG
#define assert(...) ((void)0)
#else
#define assert(...) HMM_ASSERT(#__VA_ARGS__, __VA_ARGS__)
#endif
