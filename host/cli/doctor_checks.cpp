#include "host/cli/doctor_checks.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string_view>
#include <system_error>

#include <unistd.h>

#include <fmt/format.h>

#include "host/base/cores.hpp"
#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/cli/engine_library.hpp"
#include "host/cli/needed_libraries.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
/// What the quickstart needs; no meaningful run needs less.
constexpr std::uint64_t kLeastMemory = 2 * kGiB, kLeastDisk = kGiB;
constexpr const char* kQuickstartDataset = "fashion-mnist";

// -- the machine --

/// The first word of a file, such as one in /sys; empty if there is none.
std::string first_word(const fs::path& path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

/// A control group's limit; nothing for the word `max`.
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

/// From the driver, so that GPUs that LibTorch cannot use are shown too.
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
  machine.cores_online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.cores = base::available_cores();
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
  std::vector<std::pair<std::string, std::string>> variables;
  for (const char* name :
       {"BACKSTOP_PLUGIN_PATH", "XDG_DATA_HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES",
        "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY",
        "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES"})
    if (const char* value = std::getenv(name)) variables.emplace_back(name, value);
  return variables;
}

// -- the engine --

/// The dynamic linker names only one missing library at a time, and never the package.
void explain_failure(EngineHealth& engine) {
  try {
    const auto names = missing(find_needed_libraries(engine.file, {}));
    if (names.empty()) return;
    engine.error = fmt::format("the engine needs {}, which {} not on this machine",
                               fmt::join(names, ", "), names.size() == 1 ? "is" : "are");
    engine.hint = "apt install libtorch1.13, or add the folder to LD_LIBRARY_PATH";
  } catch (const base::HostError&) {
    // It is not a library at all, and the message of the linker says so.
  }
}

EngineHealth examine_engine() {
  EngineHealth engine;
  engine.file = engine_file();
  try {
    auto& library = engine_library();
    if (!library.has(engine::kEngineDescribe)) {
      engine.error =
          fmt::format("the engine does not match this version of the program: it lacks {}",
                      engine::kEngineDescribe);
      engine.hint = "reinstall backstop, or build the target `backstop_engine`";
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
    FolderHealth folder_health;
    folder_health.folder = folder;
    std::error_code error;
    folder_health.exists = fs::is_directory(path, error);
    folder_health.distrust = catalog::distrust(folder.path, path);
    const auto same = std::find_if(
        paths.begin(), paths.end(),
        [&path](const catalog::SearchPath& earlier) { return earlier.folder == path; });
    if (same != paths.end()) folder_health.same_as = static_cast<std::size_t>(same - paths.begin());
    paths.push_back(folder.path);
    health.folders.push_back(std::move(folder_health));
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
    problems.broken("LibTorch failed: " + engine.error, "reinstall LibTorch");
  if (engine.error.empty() &&
      catalog::major_minor(engine.running) != catalog::major_minor(engine.built_for))
    problems.broken(
        fmt::format("the engine was built for LibTorch {}, but LibTorch {} was loaded from {}",
                    engine.built_for, engine.running, engine.file.string()),
        "build backstop against the LibTorch that it will run with");
  if (engine.reference_blas)
    problems.warning(
        fmt::format(
            "LibTorch multiplies matrices with the netlib reference BLAS ({}), which is many "
            "times slower than OpenBLAS",
            engine.blas_file.string()),
        "apt install libopenblas0-openmp");
}

void judge_gpus(const MachineHealth& machine, const engine::EngineDescription& engine,
                Problems& problems) {
  if (machine.gpus.empty() || engine.cuda_devices > 0) return;
  problems.warning(
      fmt::format("GPU {} is not used: LibTorch {}", machine.gpus.front(),
                  engine.cuda ? "cannot access it" : "was built without CUDA"),
      engine.cuda ? "check that `nvidia-smi` works and that CUDA_VISIBLE_DEVICES includes the GPU"
                  : "build backstop against a LibTorch with CUDA");
}

void judge_machine(const MachineHealth& machine, Problems& problems) {
  // Threads start to wait for each other when they exceed the quota by a whole core.
  if (machine.core_quota && *machine.core_quota + 1 <= machine.cores)
    problems.warning(fmt::format("this control group is limited to {} of {}",
                                 base::shortest(*machine.core_quota),
                                 base::count_of(static_cast<std::size_t>(machine.cores), "core")),
                     fmt::format("set compute.threads to {}",
                                 std::max(1, static_cast<int>(*machine.core_quota))));
  const auto gib = [](std::uint64_t bytes) {
    return base::fixed(static_cast<double>(bytes) / static_cast<double>(kGiB), 1) + " GiB";
  };
  if (machine.memory_available < kLeastMemory)
    problems.warning(fmt::format("only {} of memory is free; the quickstart needs {}",
                                 gib(machine.memory_available), gib(kLeastMemory)),
                     "close other programs, or train a smaller model on fewer images");
  if (!machine.folder_writable)
    problems.warning(
        fmt::format(
            "the current folder {} is not writable, and `backstop run` writes to `runs` in it",
            machine.folder.string()),
        "use `backstop run --out DIR`");
  else if (machine.disk_available < kLeastDisk)
    problems.warning(
        fmt::format("only {} of disk space is free in {}; the quickstart needs {}",
                    gib(machine.disk_available), machine.folder.string(), gib(kLeastDisk)),
        "free some space, or use `backstop run --out DIR`");
}

/// Whether LibTorch's kernels then use less than the processor offers.
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
      problems.warning(
          fmt::format("{} is `{}`, which keeps LibTorch from using all that this processor offers",
                      name, value),
          "unset " + name);
}

void judge_folder(const FolderHealth& health, Problems& problems) {
  const std::string path = health.folder.path.folder.string();
  const Origin origin = health.folder.origin;
  if (health.same_as) return;
  if (!health.exists && origin == Origin::installation)
    problems.warning(fmt::format("the installation has no plugins: {} does not exist", path),
                     "reinstall backstop, or build the target `plugins`");
  else if (!health.exists)
    problems.warning(fmt::format("BACKSTOP_PLUGIN_PATH names {}, which is not a folder", path),
                     "create it, or remove it from the variable");
  if (health.distrust)
    problems.warning(fmt::format("no plugin in {} is used: {}", path, health.distrust->message),
                     health.distrust->hint);
  for (const auto& entry : health.refused) {
    const auto& [message, hint] = *entry.refusal;
    // Reported above, once for all of them.
    if (health.distrust && message == health.distrust->message) continue;
    problems.warning(fmt::format("{} cannot be used: {}", entry.path.string(),
                                 message.substr(0, message.find('\n'))),
                     hint);
  }
}

void judge_plugins(const Health& health, Problems& problems) {
  if (!health.folders_error.empty()) problems.broken(health.folders_error, health.folders_hint);
  for (const auto& folder : health.folders) judge_folder(folder, problems);
  for (const auto& dataset : health.datasets)
    if (dataset.plugin == kQuickstartDataset && !dataset.there)
      problems.warning(
          fmt::format("the quickstart's data is missing: {} does not exist", dataset.path.string()),
          "apt install dataset-fashion-mnist");
}

}  // namespace

Health examine(const std::vector<std::string>& plugin_path) {
  Health health;
  // Read before the engine is loaded, which sets some of them.
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
