#include "host/catalog/elf/elf_symbols.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"
#include "tests/support/test_folder.hpp"

namespace backstop::catalog {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Not;

TEST(ElfSymbols, APluginExportsOnlyItsEntry) {
  EXPECT_THAT(exported_symbols(kGoodPlugin), ElementsAre("backstop_plugin_v1"));
}

TEST(ElfSymbols, ShowsSymbolsThatAreExportedByMistake) {
  EXPECT_THAT(exported_symbols(kBadPlugins / "exports-more.so"),
              ElementsAre("backstop_plugin_v1", "one_symbol_too_many"));
  // Symbols that it only uses are not among them.
  EXPECT_THAT(exported_symbols(kBadPlugins / "undefined-symbol.so"),
              ElementsAre("backstop_plugin_v1"));
}

TEST(ElfSymbols, NamesTheLibrariesThatAreLoadedWithIt) {
  EXPECT_THAT(needed_libraries(kGoodPlugin), Contains("libstdc++.so.6"));
  EXPECT_THAT(needed_libraries(kGoodPlugin), Not(Contains("libelf.so.1")));
}

TEST(ElfSymbols, RefusesFilesThatAreNotLibraries) {
  const TestFolder folder;
  const auto text = folder.write("text.so", "text");
  EXPECT_THROW(exported_symbols(text), base::HostError);
  EXPECT_THROW(needed_libraries(text), base::HostError);
  EXPECT_THROW(exported_symbols(folder.path()), base::HostError);
}

}  // namespace
}  // namespace backstop::catalog
