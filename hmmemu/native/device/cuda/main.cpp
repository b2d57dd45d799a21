// hmmemu-cuda: whatever hmmemu does with a real GPU is done in this process, never in the user's
// (docs/cuda.md says why). Started by hmmemu; not a program to run by hand.
//
//   hmmemu-cuda list       the GPUs as JSON on the standard output
//
// Exit status: 0; 1 with one line on the standard error that says what is wrong and what to do; 2 for a wrong
// command.
#include "gpus.h"
#include "libcuda.h"

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc != 2 || strcmp(argv[1], "list") != 0) {
    fprintf(stderr, "hmmemu-cuda is started by hmmemu; `hmmemu doctor` lists the GPUs\n");
    return 2;
  }
  try {
    puts(hmmemu::cuda::describe_gpus().c_str());
  } catch (const hmmemu::cuda::CudaError& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return fflush(stdout) == 0 ? 0 : 1;
}
