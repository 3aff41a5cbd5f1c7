// backstop doctor: shows the host, its engine, its plugins and the machine, and what is wrong with
// them.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/command.hpp"
#include "host/cli/doctor_checks.hpp"

namespace backstop::cli {
namespace {

constexpr const char* kDescription =
    "Shows the host, the engine and the LibTorch that it loads, the machine, the plugin folders "
    "and\n"
    "the data, every problem found, and what to do about it. The exit status is 0 if recipes can "
    "be\n"
    "run, even with warnings, and 4 if they cannot.\n";

// -- as text --

using Facts = std::vector<std::pair<std::string, std::string>>;

std::string gibibytes(std::uint64_t bytes) {
  return base::fixed(static_cast<double>(bytes) / (1 << 30), 1) + " GiB";
}

/// Leaves out facts without a value, and a section without facts.
std::string section(const char* title, const Facts& facts) {
  std::vector<std::vector<base::Cell>> rows;
  for (const auto& [name, value] : facts)
    if (!value.empty()) rows.push_back({{name}, {value}});
  return rows.empty() ? "" : std::string(title) + "\n" + base::columns(rows, "ll", "  ") + "\n";
}

std::string with_file(const std::string& text, const std::filesystem::path& file) {
  return text + (text.empty() || file.empty() ? "" : ", ") + file.string();
}

std::string precision_of(const engine::EngineDescription& engine) {
  if (engine.bfloat16.empty()) return "float32: this machine does not compute bfloat16 natively";
  return fmt::format("bfloat16 with {}; float32 for models narrower than {}", engine.bfloat16,
                     engine.bfloat16_width);
}

std::string gpus_of(const MachineHealth& machine, const engine::EngineDescription* engine) {
  std::string text;
  for (const auto& gpu : machine.gpus) text += (text.empty() ? "" : ", ") + gpu;
  if (text.empty()) text = "none";
  if (engine == nullptr) return text;
  return engine->cuda ? fmt::format("{}; LibTorch sees {}", text, engine->cuda_devices)
                      : text + "; LibTorch was built without CUDA";
}

std::string built_with() {
  const catalog::BuildFacts& own = catalog::own_build_facts();
  const std::string built =
      fmt::format("compiler {}, {}", own.compiler, own.cxx11_abi ? "C++11 ABI" : "old C++ ABI");
  return own.sanitizer == "none" ? built : fmt::format("{}, {} sanitizer", built, own.sanitizer);
}

std::string contents_of(const FolderHealth& health) {
  if (health.same_as) return fmt::format("same folder as {}", *health.same_as + 1);
  if (!health.exists) return "does not exist";
  std::string text = base::count_of(health.usable, "plugin");
  if (!health.refused.empty()) text += fmt::format(", {} refused", health.refused.size());
  for (const auto& entry : health.shadowed)
    text += fmt::format("{}{} {}",
                        &entry == &health.shadowed.front() ? "; an earlier folder also has " : ", ",
                        to_string(entry.manifest.kind), entry.manifest.name);
  return text;
}

std::string host_section(const std::filesystem::path& program) {
  return section("HOST",
                 {{"version", BACKSTOP_VERSION ", SDK ABI " + catalog::own_build_facts().abi},
                  {"built with", built_with()},
                  {"program", program.string()}});
}

std::string engine_section(const EngineHealth& engine) {
  return section("ENGINE", {{"file", engine.file.string()},
                            {"loads", engine.description ? "yes" : "no: " + engine.error}});
}

std::string libtorch_section(const engine::EngineDescription& engine) {
  return section("LIBTORCH", {{"built for", engine.built_for},
                              {"running", with_file(engine.running, engine.file)},
                              {"CPU kernels", engine.capability},
                              {"BLAS", with_file(engine.blas, engine.blas_file)},
                              {"OpenMP", engine.openmp_file.string()}});
}

/// How runs compute, as far as the engine knows.
Facts compute_facts(const engine::EngineDescription& engine) {
  return {{"processor", engine.processor},
          {"threads", fmt::format("{} if compute.threads is 0", engine.threads)},
          {"device", fmt::format("{} if compute.device is auto", engine.device)},
          {"precision", precision_of(engine)}};
}

std::string machine_section(const MachineHealth& machine, const engine::EngineDescription* engine) {
  Facts facts = engine != nullptr ? compute_facts(*engine) : Facts{};
  facts.insert(
      facts.end(),
      {{"cores",
        fmt::format("{} of {}", machine.cores, machine.cores_online) +
            (machine.core_quota ? ", limited to " + base::shortest(*machine.core_quota) : "")},
       {"GPU", gpus_of(machine, engine)},
       {"memory", fmt::format("{} of {} free", gibibytes(machine.memory_available),
                              gibibytes(machine.memory))},
       {"disk",
        fmt::format("{} free in {}", gibibytes(machine.disk_available), machine.folder.string())}});
  return section("MACHINE", facts);
}

std::string folders_section(const std::vector<FolderHealth>& folders) {
  Facts facts;
  for (const auto& health : folders)
    facts.emplace_back(std::to_string(facts.size() + 1),
                       fmt::format("{} ({}): {}", health.folder.path.folder.string(),
                                   description(health.folder.origin), contents_of(health)));
  return section("PLUGIN FOLDERS, IN SEARCH ORDER", facts);
}

std::string data_section(const std::vector<DatasetHealth>& datasets) {
  Facts facts;
  for (const auto& [plugin, path, there] : datasets)
    facts.emplace_back(plugin, path.string() + (there ? "" : " (missing)"));
  return section("DEFAULT LOCATIONS OF DATASETS", facts);
}

std::string problems_section(const std::vector<Problem>& problems, bool color) {
  if (problems.empty()) return "no problems found\n";
  std::string text = "PROBLEMS\n";
  for (const auto& [broken, message, hint] : problems) {
    const std::string_view style = broken ? base::kRed : base::kYellow;
    text += "  " + std::string(color ? style : "") + (broken ? "error:" : "warning:") +
            std::string(color ? base::kReset : "") + " " + base::printable(message) + "\n";
    if (!hint.empty()) text += "    hint: " + base::printable(hint) + "\n";
  }
  return text;
}

std::string text_of(const Health& health, const std::vector<Problem>& problems, bool color) {
  const auto& description = health.engine.description;
  const engine::EngineDescription* engine = description ? &*description : nullptr;
  return host_section(health.program) + engine_section(health.engine) +
         (engine != nullptr ? libtorch_section(*engine) : "") +
         machine_section(health.machine, engine) + folders_section(health.folders) +
         data_section(health.datasets) + section("ENVIRONMENT", health.environment) +
         problems_section(problems, color);
}

// -- as JSON --

nlohmann::json or_null(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

nlohmann::json to_json(const EngineHealth& engine) {
  return {{"path", engine.file.string()},
          {"loads", engine.description.has_value()},
          {"error", or_null(engine.error)}};
}

nlohmann::json libtorch_json(const engine::EngineDescription& engine) {
  return {{"built_for", engine.built_for},
          {"running", engine.running},
          {"path", engine.file.string()},
          {"cpu_capability", engine.capability},
          {"blas", or_null(engine.blas)},
          {"blas_path", or_null(engine.blas_file.string())},
          {"reference_blas", engine.reference_blas},
          {"openmp_path", or_null(engine.openmp_file.string())},
          {"cuda", engine.cuda},
          {"cuda_devices", engine.cuda_devices}};
}

nlohmann::json compute_json(const engine::EngineDescription& engine) {
  return {{"processor", engine.processor},
          {"threads", engine.threads},
          {"device", engine.device},
          {"precision", engine.bfloat16.empty() ? "float32" : "bfloat16"},
          {"bfloat16_by", or_null(engine.bfloat16)},
          {"bfloat16_from_width", engine.bfloat16_width}};
}

nlohmann::json to_json(const MachineHealth& machine) {
  return {{"cores", machine.cores},
          {"cores_online", machine.cores_online},
          {"core_quota", machine.core_quota ? nlohmann::json(*machine.core_quota) : nullptr},
          {"gpus", machine.gpus},
          {"memory_bytes", machine.memory},
          {"memory_available_bytes", machine.memory_available},
          {"folder", machine.folder.string()},
          {"folder_writable", machine.folder_writable},
          {"disk_available_bytes", machine.disk_available}};
}

nlohmann::json to_json(const FolderHealth& health) {
  const auto paths = [](const std::vector<catalog::PluginEntry>& entries) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& entry : entries) list.push_back(entry.path.string());
    return list;
  };
  return {{"path", health.folder.path.folder.string()},
          {"origin", to_string(health.folder.origin)},
          {"exists", health.exists},
          {"writable_by_everyone", health.distrust.has_value()},
          {"same_as", health.same_as ? nlohmann::json(*health.same_as) : nullptr},
          {"usable", health.usable},
          {"refused", paths(health.refused)},
          {"shadowed", paths(health.shadowed)}};
}

nlohmann::json to_json(const Health& health, const std::vector<Problem>& problems) {
  const catalog::BuildFacts& own = catalog::own_build_facts();
  nlohmann::json json{{"schema", 1},
                      {"host",
                       {{"version", BACKSTOP_VERSION},
                        {"abi", own.abi},
                        {"compiler", own.compiler},
                        {"cxx11_abi", own.cxx11_abi},
                        {"sanitizer", own.sanitizer},
                        {"path", health.program.string()}}},
                      {"engine", to_json(health.engine)},
                      {"libtorch", nullptr},
                      {"compute", nullptr},
                      {"machine", to_json(health.machine)},
                      {"folders", nlohmann::json::array()},
                      {"datasets", nlohmann::json::array()},
                      {"environment", nlohmann::json::object()},
                      {"problems", nlohmann::json::array()}};
  if (health.engine.description) {
    json["libtorch"] = libtorch_json(*health.engine.description);
    json["compute"] = compute_json(*health.engine.description);
  }
  for (const auto& folder : health.folders) json["folders"].push_back(to_json(folder));
  for (const auto& [plugin, path, there] : health.datasets)
    json["datasets"].push_back({{"plugin", plugin}, {"path", path.string()}, {"there", there}});
  for (const auto& [name, value] : health.environment) json["environment"][name] = value;
  for (const auto& [broken, message, hint] : problems)
    json["problems"].push_back({{"severity", broken ? "error" : "warning"},
                                {"message", message},
                                {"hint", or_null(hint)}});
  return json;
}

base::ExitCode doctor(const Invocation& invocation) {
  const Health health = examine(invocation.all("plugin-path"));
  const auto problems = problems_of(health);
  if (invocation.has("json"))
    print_json(to_json(health, problems), true);
  else
    print(text_of(health, problems, invocation.color_out));
  if (!problems.empty() && problems.front().broken)
    throw base::HostError(base::ExitCode::environment, problems.front().message,
                          problems.front().hint);
  return base::ExitCode::done;
}

}  // namespace

const Command kDoctor{
    "doctor",     "check this installation and this machine for problems", "",
    kDescription, [](boost::program_options::options_description&) {},     doctor};

}  // namespace backstop::cli
