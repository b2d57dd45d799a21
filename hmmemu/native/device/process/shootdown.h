// Changes the page table of this process when the CPU process asks.
#pragma once

namespace hmmemu::device {

// One thread per allowed CPU, each pinned there and answering one mailbox. False if threads cannot
// start.
bool start_shootdown();

} // namespace hmmemu::device
