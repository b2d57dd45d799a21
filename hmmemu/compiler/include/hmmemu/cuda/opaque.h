// Constants whose value no compiler knows: in read-only memory of the module, but written by the assembler.
//
// Arithmetic with them changes nothing in a result, only in what a compiler may merge. Being constants they
// are loaded once a loop, and loops that use them vectorise.
#pragma once

extern "C" {
#define HMM_OPAQUE extern __attribute__((visibility("hidden")))
HMM_OPAQUE const float hmm_one_float, hmm_minus_zero_float;
HMM_OPAQUE const double hmm_one_double, hmm_minus_zero_double;
#undef HMM_OPAQUE
}
__asm__(".pushsection .rodata.hmm_constants,\"a\"\n"
        ".balign 8\n"
        "hmm_one_double: .quad 0x3ff0000000000000\n"
        "hmm_minus_zero_double: .quad 0x8000000000000000\n"
        "hmm_one_float: .long 0x3f800000\n"
        "hmm_minus_zero_float: .long 0x80000000\n"
        ".popsection\n");
