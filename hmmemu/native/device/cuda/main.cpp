// hmmemu-cuda: whatever hmmemu does with a real GPU is done in this process, never in the user's
// (docs/cuda.md says why). Started by hmmemu; not a program to run by hand.
//
//   hmmemu-cuda list                                               the GPUs as JSON on the standard output
//   hmmemu-cuda probe NAME INDEX MODULE                            what one probe found as JSON (probe.h)
//   hmmemu-cuda FD_CONTROL FD_CHANNEL FD_VRAM FD_BELL INDEX        the process of one device: see
//   hmmemu-device
//
// Exit status of list and probe: 0; 1 with one line on the standard error that says what is wrong and what to
// do. 2: wrong command.
#include "device/process/start.h"
#include "gpus.h"
#include "libcuda.h"
#include "probe.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace {

template <class Make> int show(Make make) {
  try {
    puts(make().c_str());
  } catch (const hmmemu::cuda::CudaError& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return fflush(stdout) == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "list") == 0) return show(hmmemu::cuda::describe_gpus);
  if (argc == 5 && strcmp(argv[1], "probe") == 0)
    return show([=] { return hmmemu::cuda::run_probe(argv[2], atoi(argv[3]), argv[4]); });
  if (argc == 6) _exit(hmmemu::device::run({atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4])}));
  fprintf(stderr, "hmmemu-cuda is started by hmmemu; `hmmemu doctor` lists the GPUs\n");
  return 2;
}
