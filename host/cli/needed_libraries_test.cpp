#include "host/cli/needed_libraries.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"

namespace backstop::cli {
namespace {

using testing::ElementsAre;

/// A cache as ldconfig writes it, with an entry for each name and path.
std::string cache_of(const std::vector<std::pair<std::string, std::string>>& libraries) {
  std::string cache = "glibc-ld.so.cache1.1", strings;
  const auto append = [&cache](std::uint32_t number) {
    char bytes[sizeof number];
    std::memcpy(bytes, &number, sizeof number);
    cache.append(bytes, sizeof number);
  };
  append(static_cast<std::uint32_t>(libraries.size()));
  cache.resize(48);
  const std::size_t begin = 48 + 24 * libraries.size();
  const auto offset_of = [&strings, begin](const std::string& text) {
    const std::size_t at = begin + strings.size();
    strings += text + '\0';
    return static_cast<std::uint32_t>(at);
  };
  for (const auto& [name, path] : libraries) {
    append(0x0303);
    append(offset_of(name));
    append(offset_of(path));
    cache.resize(cache.size() + 12);
  }
  return cache + strings;
}

TEST(LibraryCache, HasEveryPathOfALibrary) {
  const auto cache = cache_of(
      {{"liba.so.1", "/x/liba.so.1"}, {"libb.so", "/x/libb.so"}, {"liba.so.1", "/y/liba.so.1"}});
  EXPECT_THAT(cached_paths(cache, "liba.so.1"), ElementsAre("/x/liba.so.1", "/y/liba.so.1"));
  EXPECT_THAT(cached_paths(cache, "liba.so"), ElementsAre());
}

TEST(LibraryCache, InAnotherFormatIsIgnored) {
  EXPECT_THAT(cached_paths("", "liba.so"), ElementsAre());
  auto cache = cache_of({{"liba.so", "/x/liba.so"}});
  cache[0] = 'x';
  EXPECT_THAT(cached_paths(cache, "liba.so"), ElementsAre());
}

TEST(LibraryCache, SurvivesDamage) {
  const auto whole = cache_of({{"liba.so", "/x/liba.so"}, {"libb.so", "/x/libb.so"}});
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_LE(cached_paths(whole.substr(0, size), "libb.so").size(), 1U);
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string damaged = whole;
    for (int k = 0; k < 4; ++k)
      damaged[20 + random() % (damaged.size() - 20)] = static_cast<char>(random());
    EXPECT_LE(cached_paths(damaged, "liba.so").size(), 2U);
  }
}

TEST(LibrarySearch, FindsWhatThisProgramRunsWith) {
  const auto libraries = find_needed_libraries("/proc/self/exe", {});
  ASSERT_FALSE(libraries.empty());
  EXPECT_THAT(missing(libraries), ElementsAre());
  for (const auto& library : libraries) EXPECT_TRUE(std::filesystem::exists(library.found));
}

TEST(LibrarySearch, FollowsRunPathsOfTheFileAndOfTheLibraryLoadedBefore) {
  // One was linked with a run path to its library, the other was not.
  EXPECT_THAT(missing(find_needed_libraries(BACKSTOP_FOUND, {})), ElementsAre());
  EXPECT_THAT(missing(find_needed_libraries(BACKSTOP_ORPHAN, {})),
              ElementsAre("libbackstop_absent.so"));
  EXPECT_THAT(missing(find_needed_libraries(BACKSTOP_ORPHAN, BACKSTOP_FOUND)), ElementsAre());
}

/// Whatever the file holds, the result is a list or a HostError.
TEST(LibrarySearch, SurvivesDamagedFiles) {
  std::ifstream file(BACKSTOP_FOUND, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  std::string pattern = (std::filesystem::temp_directory_path() / "backstop-so-XXXXXX").string();
  const int descriptor = mkstemp(pattern.data());
  ASSERT_GE(descriptor, 0);
  close(descriptor);
  std::mt19937 random(11);
  int refused = 0, read = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string damaged = whole;
    // Half of the damage hits the section headers, at the end, where the dynamic section's lies.
    const std::size_t from = i % 2 == 0 ? 0 : whole.size() - 2048;
    for (int k = 0; k < 8; ++k)
      damaged[from + random() % (whole.size() - from)] = static_cast<char>(random());
    std::ofstream(pattern, std::ios::binary) << damaged;
    try {
      find_needed_libraries(pattern, {});
      ++read;
    } catch (const base::HostError&) {
      ++refused;
    }
  }
  std::filesystem::remove(pattern);
  EXPECT_GT(refused, 10);
  EXPECT_GT(read, 10);
}

TEST(LibrarySearch, RefusesAFileThatIsNotALibrary) {
  EXPECT_THROW(find_needed_libraries("/dev/null", {}), base::HostError);
}

}  // namespace
}  // namespace backstop::cli
