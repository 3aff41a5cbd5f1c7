// The cost of `backstop list` with 0, 20 and 200 plugins in the path, as a user sees it and without
// starting a process. The promise is 150 ms with 200 plugins.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include <benchmark/benchmark.h>

#include "host/catalog/catalog.hpp"
#include "tests/support/program.hpp"

namespace {

namespace fs = std::filesystem;
using backstop::testing::Process;
using backstop::testing::Start;

/// A folder of copies of one real plugin. Two plugins of the same name in a folder would be
/// refused, so a number replaces the last letters of each name.
class Folder {
 public:
  explicit Folder(int plugins) {
    std::string pattern = (fs::temp_directory_path() / "backstop-list-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    std::ifstream file(BACKSTOP_SAMPLE_PLUGIN, std::ios::binary);
    std::string plugin{std::istreambuf_iterator<char>(file), {}};
    const std::string key = "name = \"", name = BACKSTOP_SAMPLE_NAME;
    const std::size_t at = plugin.find(key + name);
    if (at == std::string::npos) throw std::runtime_error("no manifest in the sample plugin");
    const std::size_t end = at + key.size() + name.size();
    for (int i = 0; i < plugins; ++i) {
      const std::string number = std::to_string(1000 + i);
      plugin.replace(end - number.size(), number.size(), number);
      std::ofstream(path_ / (number + ".so"), std::ios::binary) << plugin;
    }
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void list(benchmark::State& state) {
  const Folder folder(static_cast<int>(state.range(0)));
  // A copy of the program has no installation around it, and therefore no built-in plugins.
  fs::create_directories(folder.path() / "installation/bin");
  fs::copy_file(BACKSTOP_PROGRAM, folder.path() / "installation/bin/backstop");
  Start start{(folder.path() / "installation/bin/backstop").string(),
              {"list", "--plugin-path", folder.path().string()}};
  start.environment["BACKSTOP_PLUGIN_PATH"] = "";
  for (auto _ : state) {
    const auto outcome = Process(start).wait();
    if (outcome.err.starts_with("0 attacks, 0 defenses, " + std::to_string(state.range(0)) + " "))
      continue;
    state.SkipWithError(("unexpected: " + outcome.err).c_str());
    break;
  }
}

void scan(benchmark::State& state) {
  const Folder folder(static_cast<int>(state.range(0)));
  for (auto _ : state)
    benchmark::DoNotOptimize(
        backstop::catalog::Catalog::scan({{.folder = folder.path(), .given = true}}));
}

BENCHMARK(list)->Arg(0)->Arg(20)->Arg(200)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(scan)->Arg(20)->Arg(200)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
