// A folder of 32x32 PPM images: the first start decodes them into the cache file, the second reads
// that file. The promise for the second start is one second with 100,000 images.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <benchmark/benchmark.h>

#include "backstop/dataset.hpp"
#include "backstop/testing/fakes.hpp"

namespace {

namespace fs = std::filesystem;

class ImageFolder {
 public:
  explicit ImageFolder(std::int64_t images) {
    std::string pattern = (fs::temp_directory_path() / "backstop-images-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
    std::string image = "P6 32 32 255\n" + std::string(3 * 32 * 32, '\0');
    for (std::int64_t i = 0; i < images; ++i) {
      const fs::path folder = path_ / "images" / ("class-" + std::to_string(i % 10));
      if (i < 10) fs::create_directories(folder);
      image.replace(13, 8, std::to_string(10'000'000 + i));  // all different
      std::ofstream(folder / (std::to_string(i) + ".ppm"), std::ios::binary) << image;
    }
  }
  ~ImageFolder() { fs::remove_all(path_); }
  ImageFolder(const ImageFolder&) = delete;
  ImageFolder& operator=(const ImageFolder&) = delete;

  /// Does what a run does at its start, from the parameters to both splits and their statistics.
  void start() const {
    const backstop::testing::FakeParams params{"root = \"" + (path_ / "images").string() +
                                               "\"\nimage_size = 32\ncache = \"" +
                                               cache().string() + "\""};
    const auto dataset = backstop::testing::make<backstop::Dataset>(params);
    backstop::testing::FakeContext context;
    for (const backstop::Split split : {backstop::Split::train, backstop::Split::test})
      benchmark::DoNotOptimize(backstop::testing::load(*dataset, context, split));
    benchmark::DoNotOptimize(dataset->means());
  }
  [[nodiscard]] fs::path cache() const { return path_ / "cache"; }

 private:
  fs::path path_;
};

void first_start(benchmark::State& state) {
  const ImageFolder folder(state.range(0));
  for (auto _ : state) {
    folder.start();
    state.PauseTiming();
    fs::remove_all(folder.cache());
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(first_start)->Arg(10'000)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(3);

void second_start(benchmark::State& state) {
  const ImageFolder folder(state.range(0));
  folder.start();
  for (auto _ : state) folder.start();
}
BENCHMARK(second_start)
    ->Arg(10'000)
    ->Arg(100'000)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->Iterations(5);

}  // namespace
