// Parallel loops that hand out their pieces one by one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <ATen/Parallel.h>

namespace backstop::engine {

/// Calls work(next) on every thread of LibTorch, where next() returns a number in 0 .. count - 1
/// that no thread has taken yet, or `count` if all are taken. A thread that is slowed down takes
/// fewer pieces, where at::parallel_for would make the others wait for it.
template <typename Work>
void parallel_pieces(std::int64_t count, const Work& work) {
  std::atomic<std::int64_t> taken{0};
  const auto next = [&] { return std::min(taken.fetch_add(1), count); };
  const std::int64_t threads =
      std::clamp<std::int64_t>(at::get_num_threads(), 1, std::max<std::int64_t>(count, 1));
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) { work(next); });
}

}  // namespace backstop::engine
