#include "host/base/memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include <malloc.h>
#include <unistd.h>

#include <sys/resource.h>

namespace backstop::base {

namespace fs = std::filesystem;

namespace {

/// The number in a file that holds nothing else; "max" is none.
std::optional<std::int64_t> number_in(const fs::path& file) {
  std::ifstream stream(file);
  std::int64_t number = 0;
  return stream >> number ? std::optional(number) : std::nullopt;
}

/// The number that follows `key` at the beginning of a line; 0 where there is none.
std::int64_t field(const fs::path& file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string word;
    std::int64_t number = 0;
    if (words >> word >> number && word == key) return number;
  }
  return 0;
}

/// What a control group leaves; nothing where it sets no limit.
std::optional<std::int64_t> left_in(const fs::path& group, std::int64_t swap) {
  const auto limit = number_in(group / "memory.max");
  const auto used = number_in(group / "memory.current");
  if (!limit || !used) return std::nullopt;
  const auto swap_limit = number_in(group / "memory.swap.max");
  const auto swap_used = number_in(group / "memory.swap.current");
  if (swap_limit && swap_used) swap = std::clamp<std::int64_t>(*swap_limit - *swap_used, 0, swap);
  std::int64_t reclaimable = 0;
  for (const char* key : {"inactive_file", "active_file", "slab_reclaimable"})
    reclaimable += field(group / "memory.stat", key);
  return std::max<std::int64_t>(*limit - *used, 0) + reclaimable + swap;
}

/// The path of the process's group below /sys/fs/cgroup: "/user.slice/x".
std::string group_of_process(const fs::path& root) {
  std::ifstream stream(root / "proc/self/cgroup");
  constexpr std::string_view kVersion2 = "0::/";
  for (std::string line; std::getline(stream, line);)
    if (line.starts_with(kVersion2)) return line.substr(kVersion2.size());
  return {};
}

}  // namespace

AvailableMemory available_memory(const fs::path& root) {
  AvailableMemory least{std::numeric_limits<std::int64_t>::max(), "are no limit"};
  const auto consider = [&](std::int64_t bytes, const char* where) {
    if (bytes < least.bytes) least = {bytes, where};
  };
  const fs::path meminfo = root / "proc/meminfo";
  constexpr std::int64_t kKiB = 1024;
  const std::int64_t swap = field(meminfo, "SwapFree:") * kKiB;
  if (const std::int64_t available = field(meminfo, "MemAvailable:"); available > 0)
    consider(available * kKiB + swap, "are available on this machine");

  const fs::path groups = root / "sys/fs/cgroup";
  for (fs::path group = group_of_process(root);; group = group.parent_path()) {
    if (const auto left = left_in(groups / group, swap))
      consider(*left, "are left below the memory limit of the control group");
    if (group.empty()) break;
  }

  rlimit limit{};
  const auto pages = number_in(root / "proc/self/statm");  // the first is the size of the process
  if (pages && getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    const auto used = *pages * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
    const auto allocated_before = static_cast<std::int64_t>(mallinfo2().fordblks);
    const auto left = static_cast<std::int64_t>(limit.rlim_cur) - used + allocated_before;
    consider(std::max<std::int64_t>(left, 0), "are left below the limit of `ulimit -v`");
  }
  return least;
}

}  // namespace backstop::base
