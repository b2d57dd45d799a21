// assert in kernels is the prelude's macro (hmmemu/cuda/print.h), which is not there yet when only the
// preprocessor runs: then the word is left as it is. NDEBUG counts as it is now, so this header works again
// each time, as in C.
#undef assert
#ifdef NDEBUG
#define assert(...) ((void)0)
#elif defined(HMM_ASSERT)
#define assert(...) HMM_ASSERT(#__VA_ARGS__, __VA_ARGS__)
#endif
