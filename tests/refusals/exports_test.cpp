// Whatever else a plugin exported could clash with another plugin's, or with the host's.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/catalog/elf/elf_symbols.hpp"

namespace backstop {
namespace {

TEST(BuiltInPlugins, ExportTheirEntryAlone) {
  int plugins = 0;
  for (const auto& file :
       std::filesystem::recursive_directory_iterator(BACKSTOP_BUILT_IN_PLUGINS)) {
    if (file.path().extension() != ".so") continue;
    ++plugins;
    EXPECT_THAT(catalog::exported_symbols(file.path()), testing::ElementsAre("backstop_plugin_v1"))
        << file.path();
  }
  EXPECT_GE(plugins, 10);
}

}  // namespace
}  // namespace backstop
