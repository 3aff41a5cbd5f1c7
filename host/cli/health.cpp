#include "host/cli/health.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string_view>
#include <system_error>

#include <sched.h>
#include <unistd.h>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/library_search.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
/// The quickstart, the smallest run that means something, needs this much.
constexpr std::uint64_t kLeastMemory = 2 * kGiB, kLeastDisk = kGiB;
constexpr const char* kQuickstartDataset = "fashion-mnist";

// -- the machine --

/// The first word of a file, such as one of /sys; empty where there is none.
std::string first_word(const fs::path& path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

/// A control group's limit: a number, or the word `max`.
std::optional<double> limit_in(const std::string& word) {
  if (word.empty() || word.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  return std::stod(word);
}

std::optional<double> core_quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota, period;
  file >> quota >> period;
  const auto microseconds = limit_in(quota), of = limit_in(period);
  if (!microseconds || of.value_or(0) <= 0) return std::nullopt;
  return *microseconds / *of;
}

/// What the driver says: a GPU that LibTorch cannot use is worth knowing about too.
std::vector<std::string> nvidia_gpus() {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it("/proc/driver/nvidia/gpus", error), end; !error && it != end;
       it.increment(error)) {
    std::ifstream file(it->path() / "information");
    for (std::string line; std::getline(file, line);) {
      if (!line.starts_with("Model:")) continue;
      const auto begin = line.find_first_not_of(" \t", 6);
      names.push_back(begin == std::string::npos ? "unnamed" : line.substr(begin));
    }
  }
  return names;
}

std::uint64_t meminfo(std::string_view key) {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    std::uint64_t kilobytes = 0;
    if (word == key && file >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

void examine_memory(MachineHealth& machine) {
  machine.memory = meminfo("MemTotal:");
  machine.memory_available = meminfo("MemAvailable:");
  const auto limit = limit_in(first_word("/sys/fs/cgroup/memory.max"));
  if (!limit || *limit >= static_cast<double>(machine.memory)) return;
  machine.memory = static_cast<std::uint64_t>(*limit);
  const double used = limit_in(first_word("/sys/fs/cgroup/memory.current")).value_or(0);
  const auto left = static_cast<std::uint64_t>(std::max(0.0, *limit - used));
  machine.memory_available = std::min(machine.memory_available, left);
}

MachineHealth examine_machine() {
  MachineHealth machine;
  cpu_set_t set;
  CPU_ZERO(&set);
  machine.cores_online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.cores =
      sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : machine.cores_online;
  machine.core_quota = core_quota();
  machine.gpus = nvidia_gpus();
  examine_memory(machine);
  std::error_code error;
  machine.folder = fs::current_path(error);
  machine.folder_writable = !error && access(".", W_OK) == 0;
  if (const auto space = fs::space(".", error); !error) machine.disk_available = space.available;
  return machine;
}

std::vector<std::pair<std::string, std::string>> examine_environment() {
  std::vector<std::pair<std::string, std::string>> found;
  for (const char* name :
       {"BACKSTOP_PLUGIN_PATH", "XDG_DATA_HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES",
        "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY",
        "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"})
    if (const char* value = std::getenv(name)) found.emplace_back(name, value);
  return found;
}

// -- the engine --

/// The dynamic linker names one missing library at a time, and what to install none at all.
void explain_failure(EngineHealth& engine) {
  try {
    const auto names = missing(find_needed_libraries(engine.file, {}));
    if (names.empty()) return;
    std::string list;
    for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
    engine.error = "the engine needs " + list + ", which " + (names.size() == 1 ? "is" : "are") +
                   " not on this machine";
    engine.hint = "apt install libtorch1.13, or put the folder into LD_LIBRARY_PATH";
  } catch (const base::HostError&) {
    // No library at all: the linker's own words say that.
  }
}

EngineHealth examine_engine() {
  EngineHealth engine;
  engine.file = engine_file();
  try {
    auto& library = engine_library();
    if (!library.has(engine::kEngineDescribe)) {
      engine.error = "the engine is of another version than this program: it has no " +
                     std::string(engine::kEngineDescribe);
      engine.hint = "install backstop again, or build the target `backstop_engine`";
      return engine;
    }
    engine::EngineDescription description;
    library.get<void(engine::EngineDescription&)>(engine::kEngineDescribe)(description);
    engine.description = std::move(description);
  } catch (const base::HostError& e) {
    engine.error = e.what();
    engine.hint = e.hint();
    std::error_code error;
    if (fs::exists(engine.file, error)) explain_failure(engine);
  }
  return engine;
}

// -- plugins and data --

void examine_folders(Health& health, const std::vector<std::string>& plugin_path) {
  std::vector<PluginFolder> folders;
  std::vector<catalog::SearchPath> paths;
  try {
    folders = plugin_folders(plugin_path);
  } catch (const base::HostError& e) {
    health.folders_error = e.what();
    health.folders_hint = e.hint();
    return;
  }
  for (const auto& folder : folders) {
    const auto& path = folder.path.folder;
    FolderHealth one;
    one.folder = folder;
    std::error_code error;
    one.exists = fs::is_directory(path, error);
    one.writable_by_everyone = catalog::writable_by_everyone(path);
    const auto same = std::find_if(
        paths.begin(), paths.end(),
        [&path](const catalog::SearchPath& earlier) { return earlier.folder == path; });
    if (same != paths.end()) one.same_as = static_cast<std::size_t>(same - paths.begin());
    paths.push_back(folder.path);
    health.folders.push_back(std::move(one));
  }
  health.catalog = catalog::Catalog::scan(paths);
  for (const auto& entry : health.catalog.entries()) {
    const auto at = folder_of(entry.path, folders);
    if (!at) continue;
    FolderHealth& folder = health.folders[*at];
    if (entry.refusal)
      folder.refused.push_back(entry);
    else if (entry.shadowed)
      folder.shadowed.push_back(entry);
    else
      ++folder.usable;
  }
}

void examine_datasets(Health& health) {
  for (const auto& name : health.catalog.names(catalog::Kind::dataset)) {
    for (const auto& parameter :
         health.catalog.find(catalog::Kind::dataset, name)->manifest.parameters) {
      if (parameter.type != schema::ParameterType::path || !parameter.must_exist ||
          parameter.default_value.empty())
        continue;
      const auto* text = parameter.default_value[0].as_string();
      if (text == nullptr) continue;
      std::error_code error;
      health.datasets.push_back({name, text->get(), fs::exists(text->get(), error)});
    }
  }
}

// -- what is wrong --

class Problems {
 public:
  void broken(std::string message, std::string hint) {
    found_.push_back({true, std::move(message), std::move(hint)});
  }
  void warning(std::string message, std::string hint) {
    found_.push_back({false, std::move(message), std::move(hint)});
  }
  std::vector<Problem> worst_first() {
    std::stable_partition(found_.begin(), found_.end(),
                          [](const Problem& problem) { return problem.broken; });
    return std::move(found_);
  }

 private:
  std::vector<Problem> found_;
};

void judge_libtorch(const engine::EngineDescription& engine, Problems& problems) {
  if (!engine.error.empty())
    problems.broken("LibTorch fails: " + engine.error, "install LibTorch again");
  if (engine.error.empty() &&
      catalog::major_minor(engine.running) != catalog::major_minor(engine.built_for))
    problems.broken("the engine was built for LibTorch " + engine.built_for + ", LibTorch " +
                        engine.running + " is loaded from " + engine.file.string(),
                    "build backstop against the LibTorch that it is to run with");
  if (engine.reference_blas)
    problems.warning("LibTorch multiplies matrices with the netlib reference BLAS (" +
                         engine.blas_file.string() + "), which is many times too slow",
                     "apt install libopenblas0-openmp");
}

void judge_gpus(const MachineHealth& machine, const engine::EngineDescription& engine,
                Problems& problems) {
  if (machine.gpus.empty() || engine.cuda_devices > 0) return;
  problems.warning("there is a GPU, " + machine.gpus.front() + ", and LibTorch " +
                       (engine.cuda ? "cannot use it" : "was built without CUDA"),
                   engine.cuda ? "see whether `nvidia-smi` works and CUDA_VISIBLE_DEVICES allows it"
                               : "build backstop against a LibTorch with CUDA");
}

void judge_machine(const MachineHealth& machine, Problems& problems) {
  // A whole core more than allowed is what makes threads wait for each other.
  if (machine.core_quota && *machine.core_quota + 1 <= machine.cores)
    problems.warning("this control group may use " + base::shortest(*machine.core_quota) + " of " +
                         base::count_of(static_cast<std::size_t>(machine.cores), "core"),
                     "set compute.threads to " +
                         std::to_string(std::max(1, static_cast<int>(*machine.core_quota))));
  const auto gib = [](std::uint64_t bytes) {
    return base::fixed(static_cast<double>(bytes) / static_cast<double>(kGiB), 1) + " GiB";
  };
  if (machine.memory_available < kLeastMemory)
    problems.warning(gib(machine.memory_available) + " of memory are free, the quickstart needs " +
                         gib(kLeastMemory),
                     "end other programs, or train a smaller model on fewer images");
  if (!machine.folder_writable)
    problems.warning("the current folder, " + machine.folder.string() +
                         ", is not writable: `backstop run` writes to `runs` in it",
                     "use `backstop run --out DIR`");
  else if (machine.disk_available < kLeastDisk)
    problems.warning(gib(machine.disk_available) + " of disk are free in " +
                         machine.folder.string() + ", the quickstart needs " + gib(kLeastDisk),
                     "make room, or use `backstop run --out DIR`");
}

/// LibTorch's kernels then use less than the processor has.
bool holds_kernels_back(std::string_view capability) {
#if defined(__x86_64__)
  if (capability == "avx2") return __builtin_cpu_supports("avx512f") != 0;
#endif
  return capability == "default";
}

void judge_environment(const Health& health, Problems& problems) {
  for (const auto& [name, value] : health.environment)
    if (name == "ONEDNN_MAX_CPU_ISA" || name == "DNNL_MAX_CPU_ISA" ||
        (name == "ATEN_CPU_CAPABILITY" && holds_kernels_back(value)))
      problems.warning(name + " is " + base::ticked(value) +
                           ", which keeps LibTorch from using all of this processor",
                       "unset " + name);
}

void judge_folder(const FolderHealth& health, Problems& problems) {
  const std::string path = health.folder.path.folder.string();
  const Origin origin = health.folder.origin;
  if (health.same_as) return;
  if (!health.exists && origin == Origin::installation)
    problems.warning("the installation has no plugins: " + path + " does not exist",
                     "install backstop again, or build the target `plugins`");
  else if (!health.exists)
    problems.warning("BACKSTOP_PLUGIN_PATH names " + path + ", which is no folder",
                     "create it, or take it out");
  const bool distrusted = health.writable_by_everyone && !health.folder.path.given;
  if (distrusted)
    problems.warning(path + " is writable by everyone, so no plugin in it is used",
                     "chmod o-w " + path + ", or name the folder with --plugin-path");
  for (const auto& entry : health.refused) {
    const auto& [message, hint] = *entry.refusal;
    // Said once for all of them above.
    if (distrusted && message.starts_with(path + " is writable")) continue;
    problems.warning(
        entry.path.string() + " cannot be used: " + message.substr(0, message.find('\n')), hint);
  }
}

void judge_plugins(const Health& health, Problems& problems) {
  if (!health.folders_error.empty()) problems.broken(health.folders_error, health.folders_hint);
  for (const auto& folder : health.folders) judge_folder(folder, problems);
  for (const auto& dataset : health.datasets)
    if (dataset.plugin == kQuickstartDataset && !dataset.there)
      problems.warning(
          "the quickstart's data are not there: " + dataset.path.string() + " does not exist",
          "apt install dataset-fashion-mnist");
}

}  // namespace

Health examine(const std::vector<std::string>& plugin_path) {
  Health health;
  // Before the engine is loaded, which sets some of them.
  health.environment = examine_environment();
  std::error_code error;
  health.program = fs::read_symlink("/proc/self/exe", error);
  health.machine = examine_machine();
  examine_folders(health, plugin_path);
  examine_datasets(health);
  health.engine = examine_engine();
  return health;
}

std::vector<Problem> problems_of(const Health& health) {
  Problems problems;
  const auto& engine = health.engine;
  if (engine.description) {
    judge_libtorch(*engine.description, problems);
    judge_gpus(health.machine, *engine.description, problems);
  } else {
    problems.broken(engine.error, engine.hint);
  }
  judge_environment(health, problems);
  judge_machine(health.machine, problems);
  judge_plugins(health, problems);
  return problems.worst_first();
}

}  // namespace backstop::cli
