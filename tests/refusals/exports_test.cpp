// Any other exported symbol could clash with one of another plugin or of the host.
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/catalog/elf/elf_symbols.hpp"

namespace backstop {
namespace {

TEST(BuiltInPlugins, ExportOnlyTheirEntry) {
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
