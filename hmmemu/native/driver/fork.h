// Keeps fork() safe for every live driver of this process.
#pragma once
#include "driver/driver.h"

namespace hmm {

// From now on, until forget, fork() brings the driver's pages home first. Throws if there are too many
// drivers.
void watch_forks(Driver& driver);
void forget_forks(Driver& driver);

} // namespace hmm
