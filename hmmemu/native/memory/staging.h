// Copy buffers for pages on the move: taken from one processor, not yet given to the next.
//
// A fixed number of buffers of one block each. Taken within a block lock (see base/lock.h for the
// order).
#pragma once
#include "base/lock.h"
#include "base/mapping.h"
#include <cstddef>

namespace hmm {

inline constexpr uint64_t kStagingBytes = kBlock; // touched only as far as it is used

class Staging {
 public:
  Staging() : memory_(kStagingBytes, true) {}
  std::byte* data() const { return memory_.as<std::byte>(); }

 private:
  friend class StagingPool;
  Lock lock_;
  Mapping memory_;
};

class StagingPool {
 public:
  // Holds a buffer for as long as it lives.
  class Use {
   public:
    explicit Use(StagingPool& pool) : staging_(pool.take()) {}
    ~Use() { staging_.lock_.unlock(); }
    Use(const Use&) = delete;
    Staging& operator*() const { return staging_; }

   private:
    Staging& staging_;
  };

 private:
  static constexpr unsigned kBuffers = 8;
  Staging& take() {
    for (Staging& staging : buffers_)
      if (staging.lock_.try_lock()) return staging;
    buffers_[0].lock_.lock();
    return buffers_[0];
  }
  Staging buffers_[kBuffers];
};

} // namespace hmm
