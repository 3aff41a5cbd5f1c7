#include "host/catalog/library.hpp"

#include <cstdlib>

#include <dlfcn.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backstop/error.hpp"
#include "backstop/params.hpp"
#include "host/base/error.hpp"
#include "tests/support/test_folder.hpp"

namespace backstop::catalog {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

/// Parameters of which none is given.
class NoParams final : public Params {
 public:
  bool has(std::string_view) const override { return false; }
  bool boolean(std::string_view) const override { fail(); }
  std::int64_t integer(std::string_view) const override { fail(); }
  double number(std::string_view) const override { fail(); }
  std::string_view string(std::string_view) const override { fail(); }
  std::span<const std::int64_t> integers(std::string_view) const override { fail(); }
  std::span<const double> numbers(std::string_view) const override { fail(); }
  std::span<const std::string_view> strings(std::string_view) const override { fail(); }
  const Scheduler& scheduler(std::string_view) const override { fail(); }
  void read_optimizer(std::string_view, OptimizerOptions&) const override { fail(); }

 private:
  [[noreturn]] static void fail() { throw Error("no such parameter"); }
};

class Library : public testing::Test {
 protected:
  const PluginEntry& entry(const std::string& name) const {
    return catalog_.require(Kind::scheduler, name);
  }
  /// The error of load_library after "cannot load FILE: "; empty when it loads.
  std::string failure(const std::string& name) const {
    try {
      load_library(entry(name));
    } catch (const base::HostError& e) {
      EXPECT_EQ(e.code(), base::ExitCode::plugin);
      EXPECT_NE(e.hint(), "");
      const std::string opening = "cannot load " + entry(name).path.string() + ": ";
      EXPECT_THAT(e.what(), StartsWith(opening));
      return std::string(e.what()).substr(opening.size());
    }
    return {};
  }

  Catalog catalog_ = Catalog::scan({{kBadPlugins, false, true}});
};

TEST_F(Library, ReturnsTheDescriptor) {
  const backstop_plugin_descriptor& descriptor = load_library(entry("throws-in-create"));
  EXPECT_EQ(descriptor.magic, BACKSTOP_PLUGIN_MAGIC);
  EXPECT_EQ(descriptor.kind, std::uint32_t{BACKSTOP_KIND_SCHEDULER});
}

TEST_F(Library, LoadsAFileOnce) {
  EXPECT_EQ(&load_library(entry("throws-42")), &load_library(entry("throws-42")));
}

TEST_F(Library, KeepsPluginsApartThatExportTheSameSymbol) {
  EXPECT_NE(&load_library(entry("throws-42")), &load_library(entry("throws-in-create")));
}

TEST_F(Library, IsNeverUnmapped) {
  const std::string path = entry("throws-42").path.string();
  load_library(entry("throws-42"));
  // These plugins are linked without -z nodelete: only the open mode keeps them loaded.
  for (int i = 0; i < 3; ++i) {
    void* handle = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    ASSERT_NE(handle, nullptr);
    ::dlclose(handle);
    ::dlclose(handle);
  }
  EXPECT_NE(::dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD), nullptr);
}

TEST_F(Library, CreateReportsWhatThePluginThrows) {
  const NoParams nothing;
  const Params& params = nothing;  // `create` takes the address of the interface
  backstop_error error{};
  error.struct_size = sizeof error;
  void* object = nullptr;
  EXPECT_EQ(load_library(entry("throws-in-create")).create(&params, &object, &error),
            BACKSTOP_ERROR_PARAMETER);
  EXPECT_STREQ(error.message, "rate is 3, the plugin wants 4");
  EXPECT_STREQ(error.hint, "set rate = 4");
  EXPECT_EQ(load_library(entry("throws-42")).create(&params, &object, &error),
            BACKSTOP_ERROR_PLUGIN);
  EXPECT_EQ(object, nullptr);
}

TEST_F(Library, RefusesMissingEntry) {
  EXPECT_EQ(failure("no-entry"), "it does not export backstop_plugin_v1");
}

TEST_F(Library, FindsMissingSymbolsAtOnce) {
  EXPECT_THAT(failure("undefined-symbol"), StartsWith("undefined symbol: "));
  EXPECT_THAT(failure("undefined-symbol"), HasSubstr("defined_nowhere"));
}

TEST_F(Library, RefusesBadDescriptors) {
  EXPECT_EQ(failure("null-descriptor"), "backstop_plugin_v1() returns a null pointer");
  EXPECT_EQ(failure("wrong-magic"),
            "its descriptor's magic number is 12245933, expected 1347109698");
  EXPECT_THAT(failure("small-descriptor"),
              StartsWith("its descriptor is 16 bytes long, expected at least "));
  EXPECT_THAT(failure("wrong-kind"), EndsWith("its manifest says `scheduler`"));
  EXPECT_THAT(failure("stale-note"), StartsWith("its descriptor says ABI "));
}

TEST_F(Library, RefusesPluginsThatTheCatalogRefused) {
  for (const PluginEntry& entry : catalog_.entries()) {
    if (!entry.refusal) continue;
    EXPECT_THROW(load_library(entry), base::HostError) << entry.path;
  }
}

TEST_F(Library, NeedsAnAbsolutePath) {
  PluginEntry relative = entry("throws-42");
  relative.path = relative.path.filename();
  EXPECT_THROW(load_library(relative), base::HostError);
}

TEST_F(Library, LoadingRunsPluginCodeAndScanningDoesNot) {
  constexpr const char* kTrace = "BACKSTOP_STATIC_CONSTRUCTOR_RAN";
  ASSERT_NE(catalog_.find(Kind::scheduler, "static-constructor"), nullptr);
  EXPECT_EQ(std::getenv(kTrace), nullptr);
  load_library(entry("static-constructor"));
  EXPECT_NE(std::getenv(kTrace), nullptr);
}

}  // namespace
}  // namespace backstop::catalog
