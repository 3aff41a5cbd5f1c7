// Reading the CIFAR-10 training set from the page cache: bytes of the tensors per second, and peak
// memory as a multiple of the tensors. The promises are 1 GB/s and 1.2.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include <benchmark/benchmark.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"

namespace {

namespace fs = std::filesystem;

/// Files with the official names and sizes, and random pixels.
class Cifar10Files {
 public:
  Cifar10Files() {
    std::string pattern = (fs::temp_directory_path() / "backstop-cifar10-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    std::mt19937_64 random;
    for (const char* name : {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4",
                             "data_batch_5", "test_batch"}) {
      constexpr std::size_t kRecord = 1 + 3 * 32 * 32;
      std::string bytes(10'000 * kRecord, '\0');
      for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<char>(i % kRecord == 0 ? random() % 10 : random() % 256);
      std::ofstream(path_ / (name + std::string(".bin")), std::ios::binary) << bytes;
    }
  }
  ~Cifar10Files() { fs::remove_all(path_); }
  Cifar10Files(const Cifar10Files&) = delete;
  Cifar10Files& operator=(const Cifar10Files&) = delete;

  [[nodiscard]] std::string root() const { return "root = \"" + path_.string() + "\""; }

 private:
  fs::path path_;
};

/// Resident bytes: "VmRSS" now, or "VmHWM" at the peak since the last reset.
std::int64_t memory(const std::string& what) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(what + ":")) return 1024 * std::stoll(line.substr(what.size() + 1));
  return 0;
}

void read_training_set(benchmark::State& state) {
  static const Cifar10Files files;
  const backstop::testing::FakeParams params{files.root()};
  const auto dataset = backstop::testing::make<backstop::Dataset>(params);
  backstop::testing::FakeContext context;
  std::int64_t bytes = 0;
  double most = 0;
  for (auto _ : state) {
    state.PauseTiming();
    std::ofstream("/proc/self/clear_refs") << 5;  // resets the peak
    const std::int64_t before = memory("VmRSS");
    state.ResumeTiming();
    const auto samples = backstop::testing::load(*dataset, context, backstop::Split::train);
    state.PauseTiming();
    bytes = static_cast<std::int64_t>(samples.images.nbytes() + samples.labels.nbytes());
    most = std::max(most, double(memory("VmHWM") - before) / double(bytes));
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["peak_memory_over_tensors"] = most;
}
BENCHMARK(read_training_set)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(20);

}  // namespace
