#include "host/base/cores.hpp"

#include <algorithm>

#include <sched.h>
#include <unistd.h>

namespace backstop::base {

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = sched_getaffinity(0, sizeof set, &set) == 0
                        ? CPU_COUNT(&set)
                        : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, cores);
}

}  // namespace backstop::base
