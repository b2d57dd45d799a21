// hmmemu-device: the process of one emulated device. Started by hmmemu; not a program to run by
// hand.
//
//   hmmemu-device FD_CONTROL FD_CHANNEL FD_VRAM FD_BELL INDEX
//
// Control: socket for requests. Channel: shared memory (protocol.h). VRAM: the device's frames;
// file offset is virtual address. Bell: an eventfd that tells the CPU process of page faults (tracker
// signal).
#include "start.h"
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr, "hmmemu-device is started by hmmemu; use `hmmemu run`\n");
    return 2;
  }
  _exit(hmmemu::device::run({atoi(argv[1]), atoi(argv[2]), atoi(argv[3]), atoi(argv[4])}));
}
