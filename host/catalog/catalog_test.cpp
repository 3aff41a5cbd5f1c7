#include "host/catalog/catalog.hpp"

#include <chrono>
#include <cstdlib>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/base/error.hpp"
#include "tests/support/test_folder.hpp"

namespace backstop::catalog {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

const PluginEntry& entry_of(const Catalog& catalog, const fs::path& file) {
  for (const PluginEntry& entry : catalog.entries()) {
    if (entry.path == file) return entry;
  }
  throw std::runtime_error("the catalog has no " + file.string());
}

std::string message_of(const Refusal& refusal) {
  return refusal.message;
}

std::string refusal_of_bad_plugin(const std::string& name) {
  const Catalog catalog = Catalog::scan({{kBadPlugins, false, true}});
  const PluginEntry& entry = entry_of(catalog, fs::canonical(kBadPlugins / (name + ".so")));
  if (!entry.refusal) return {};
  EXPECT_NE(entry.refusal->hint, "") << name;
  return entry.refusal->message;
}

/// Sets an environment variable for one test; nullptr unsets it.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    set(value);
  }
  ~Variable() { set(old_ ? old_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) const {
    if (value != nullptr) {
      ::setenv(name_, value, 1);
    } else {
      ::unsetenv(name_);
    }
  }
  const char* name_;
  std::optional<std::string> old_;
};

std::vector<fs::path> folders_of(const std::vector<SearchPath>& path) {
  std::vector<fs::path> folders;
  for (const SearchPath& element : path) folders.push_back(element.folder);
  return folders;
}

base::ExitCode failure_of_search_path(const std::vector<std::string>& from_command_line) {
  try {
    Catalog::search_path(from_command_line);
  } catch (const base::HostError& e) {
    return e.code();
  }
  return base::ExitCode::done;
}

class CatalogTest : public testing::Test {
 protected:
  fs::path built_in() const {
    return fs::canonical("/proc/self/exe").parent_path().parent_path() / "lib/backstop/plugins";
  }

  TestFolder folder_;
  Variable path_{"BACKSTOP_PLUGIN_PATH", nullptr};
  Variable data_{"XDG_DATA_HOME", (folder_.path() / "data").c_str()};
};

TEST_F(CatalogTest, ReadsPluginsInTheFolderAndInItsSubfolders) {
  folder_.copy(kGoodPlugin, "any-name.so");
  folder_.copy(kBadPlugins / "throws-42.so", "schedulers/other.so");
  folder_.copy(kBadPlugins / "throws-in-create.so", "elsewhere/deeper.so");
  folder_.copy(kBadPlugins / "throws-in-create.so", "not-a-library.txt");
  const Catalog catalog = Catalog::scan({{folder_.path()}});
  EXPECT_THAT(catalog.names(Kind::scheduler), ElementsAre("constant", "throws-42"));
  EXPECT_EQ(catalog.entries().size(), 2u);
  const PluginEntry* constant = catalog.find(Kind::scheduler, "constant");
  ASSERT_NE(constant, nullptr);
  EXPECT_EQ(constant->path, folder_.path() / "any-name.so");
  EXPECT_EQ(constant->facts->torch, own_build_facts().torch);
  EXPECT_FALSE(constant->built_in);
}

TEST_F(CatalogTest, AFolderNeedNotMatchThePluginsKind) {
  folder_.copy(kGoodPlugin, "attacks/constant.so");
  EXPECT_NE(Catalog::scan({{folder_.path()}}).find(Kind::scheduler, "constant"), nullptr);
}

TEST_F(CatalogTest, MissingFoldersAreSkipped) {
  EXPECT_TRUE(Catalog::scan({{folder_.path() / "none"}}).entries().empty());
}

TEST_F(CatalogTest, AFolderThatIsAFileBecomesARefusedEntry) {
  const fs::path file = folder_.write("file", "");
  const Catalog catalog = Catalog::scan({{file}});
  EXPECT_EQ(entry_of(catalog, file).refusal.value().message,
            "folder cannot be listed: Not a directory");
}

TEST_F(CatalogTest, ABadFileBecomesARefusedEntryNamedAfterIt) {
  const fs::path file = folder_.path() / "defenses/half-copied.so";
  folder_.copy(kGoodPlugin, "defenses/half-copied.so");
  fs::resize_file(file, 5000);
  const Catalog catalog = Catalog::scan({{folder_.path()}});
  const PluginEntry& entry = entry_of(catalog, file);
  EXPECT_EQ(entry.manifest.name, "half-copied");
  EXPECT_EQ(entry.manifest.kind, Kind::defense);
  EXPECT_THAT(entry.refusal.value().message, HasSubstr("truncated"));
  EXPECT_EQ(catalog.find(Kind::defense, "half-copied"), nullptr);
}

TEST_F(CatalogTest, RefusesPluginsBuiltForAnotherHost) {
  const BuildFacts& own = own_build_facts();
  EXPECT_THAT(refusal_of_bad_plugin("wrong-abi"),
              testing::StartsWith("built for SDK ABI 99.7, but this host supports 1.0 to "));
  EXPECT_EQ(refusal_of_bad_plugin("wrong-torch"),
            "built for LibTorch 0.4.1, but this host uses " + own.torch);
  EXPECT_THAT(refusal_of_bad_plugin("wrong-cxx11-abi"), HasSubstr("_GLIBCXX_USE_CXX11_ABI="));
  EXPECT_THAT(refusal_of_bad_plugin("wrong-sanitizer"), HasSubstr("sanitizer, but this host with"));
}

TEST_F(CatalogTest, RefusesBadManifestsWithLines) {
  EXPECT_THAT(refusal_of_bad_plugin("broken-manifest"), testing::StartsWith("manifest:2: "));
  EXPECT_EQ(refusal_of_bad_plugin("invalid-manifest"),
            "manifest:6: unknown key `sumary`; did you mean `summary`?\n"
            "manifest:9: `parameters.rate.default` must be at least 0, got -1.0");
}

TEST_F(CatalogTest, ReadsTheManifestOfAnIncompatiblePlugin) {
  const Catalog catalog = Catalog::scan({{kBadPlugins, false, true}});
  const PluginEntry& entry = entry_of(catalog, fs::canonical(kBadPlugins / "wrong-abi.so"));
  EXPECT_EQ(entry.manifest.kind, Kind::scheduler);
  EXPECT_EQ(entry.manifest.version, "1.0.0");
  EXPECT_EQ(entry.facts.value().abi, "99.7");
}

TEST_F(CatalogTest, RefusesBothOfTwoPluginsWithOneNameInAFolder) {
  const fs::path one = folder_.copy(kGoodPlugin, "one.so");
  const fs::path two = folder_.copy(kGoodPlugin, "schedulers/two.so");
  const Catalog catalog = Catalog::scan({{folder_.path()}});
  EXPECT_EQ(catalog.find(Kind::scheduler, "constant"), nullptr);
  EXPECT_EQ(entry_of(catalog, one).refusal.value().message,
            "two files hold scheduler `constant`: " + one.string() + " and " + two.string());
  EXPECT_EQ(entry_of(catalog, two).refusal.value().message,
            "two files hold scheduler `constant`: " + two.string() + " and " + one.string());
}

TEST_F(CatalogTest, ARefusedPluginDoesNotShadow) {
  folder_.copy(kGoodPlugin, "constant.so");
  folder_.copy(kGoodPlugin, "schedulers/constant.so");
  fs::resize_file(folder_.path() / "constant.so", 5000);
  EXPECT_NE(Catalog::scan({{folder_.path()}}).find(Kind::scheduler, "constant"), nullptr);
}

TEST_F(CatalogTest, EarlierFoldersShadowLaterOnes) {
  const fs::path early = folder_.copy(kGoodPlugin, "early/constant.so");
  const fs::path late = folder_.copy(kGoodPlugin, "late/constant.so");
  const Catalog catalog =
      Catalog::scan({{folder_.path() / "early"}, {folder_.path() / "late", true}});
  EXPECT_EQ(catalog.require(Kind::scheduler, "constant").path, early);
  EXPECT_TRUE(entry_of(catalog, late).shadowed);
  EXPECT_TRUE(entry_of(catalog, late).built_in);
  EXPECT_FALSE(entry_of(catalog, early).shadowed);
  EXPECT_EQ(catalog.shadowed_by(entry_of(catalog, early)), &entry_of(catalog, late));
  EXPECT_EQ(catalog.shadowed_by(entry_of(catalog, late)), nullptr);
  EXPECT_THAT(catalog.names(Kind::scheduler), ElementsAre("constant"));
}

TEST_F(CatalogTest, AFolderThatIsNamedTwiceIsReadOnce) {
  folder_.copy(kGoodPlugin, "plugins/constant.so");
  fs::create_symlink("plugins", folder_.path() / "link");
  const Catalog catalog = Catalog::scan({{folder_.path() / "plugins"}, {folder_.path() / "link"}});
  EXPECT_EQ(catalog.entries().size(), 1u);
}

TEST_F(CatalogTest, RefusesFilesWritableByEveryoneUnlessGiven) {
  const fs::path file = folder_.copy(kGoodPlugin, "schedulers/constant.so");
  for (const fs::path& open : {folder_.path(), file.parent_path(), file}) {
    const fs::perms before = fs::status(open).permissions();
    fs::permissions(open, before | fs::perms::others_write);
    const Catalog catalog = Catalog::scan({{folder_.path()}});
    EXPECT_EQ(entry_of(catalog, file).refusal.value().message,
              open.string() + " is writable by everyone, so anyone may have put code there");
    EXPECT_FALSE(Catalog::scan({{folder_.path(), false, true}}).entries()[0].refusal);
    fs::permissions(open, before);
  }
  fs::permissions(folder_.path(), fs::perms::all | fs::perms::sticky_bit);
  EXPECT_FALSE(Catalog::scan({{folder_.path()}}).entries()[0].refusal);
}

TEST_F(CatalogTest, RefusesWhatLiesInAFolderBelowAnOpenOne) {
  const fs::path file = folder_.copy(kGoodPlugin, "open/safe/constant.so");
  const fs::path open = folder_.path() / "open";
  fs::permissions(open, fs::perms::all);
  const auto refusal_in = [](const SearchPath& path) {
    return Catalog::scan({path}).entries().at(0).refusal;
  };
  const std::string sentence =
      open.string() + " is writable by everyone, so anyone may have put code there";
  EXPECT_EQ(refusal_in({file.parent_path()}).value().message, sentence);
  EXPECT_FALSE(refusal_in({file.parent_path(), false, true}));
  // Whoever can replace the installation can replace the program.
  EXPECT_FALSE(refusal_in({file.parent_path(), true}));
  // A sticky folder like /tmp does not let others replace what is ours.
  fs::permissions(open, fs::perms::all | fs::perms::sticky_bit);
  EXPECT_FALSE(refusal_in({file.parent_path()}));
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown(file.parent_path().c_str(), 12345, 12345), 0);
  EXPECT_EQ(refusal_in({file.parent_path()}).value().message,
            file.parent_path().string() +
                " belongs to another user, and everyone may create it in " + open.string());
}

TEST_F(CatalogTest, RefusesLinksThatEveryoneMayReplace) {
  const fs::path file = folder_.copy(kGoodPlugin, "safe/constant.so");
  const fs::path open = folder_.path() / "open";
  fs::create_directory(open);
  fs::create_symlink("../safe", open / "link");
  fs::create_symlink(open / "link", folder_.path() / "link");  // through the open folder, back out
  fs::permissions(open, fs::perms::all);
  for (const fs::path& named : {open / "link", folder_.path() / "link"}) {
    const Catalog catalog = Catalog::scan({{named}});
    EXPECT_EQ(entry_of(catalog, file).refusal.value().message,
              open.string() + " is writable by everyone, so anyone may have put code there");
  }
  fs::create_directory(folder_.path() / "plugins");
  fs::create_symlink(open / "link/constant.so", folder_.path() / "plugins/constant.so");
  EXPECT_TRUE(Catalog::scan({{folder_.path() / "plugins"}}).entries().at(0).refusal);
}

TEST_F(CatalogTest, ARefusedPluginInAGivenFolderIsNotReplacedByAnother) {
  const fs::path mine = folder_.copy(kGoodPlugin, "mine/constant.so");
  const fs::path other = folder_.copy(kGoodPlugin, "other/constant.so");
  fs::resize_file(mine, 5000);
  const auto scan = [&](bool given) {
    return Catalog::scan({{folder_.path() / "mine", false, given}, {folder_.path() / "other"}});
  };
  EXPECT_EQ(scan(false).require(Kind::scheduler, "constant").path, other);
  const Catalog catalog = scan(true);
  EXPECT_TRUE(entry_of(catalog, other).shadowed);
  try {
    static_cast<void>(catalog.require(Kind::scheduler, "constant"));
    FAIL() << "it was replaced";
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::plugin);
    EXPECT_THAT(e.what(), HasSubstr("cannot be used: " + mine.string() + ": file is truncated"));
  }
}

TEST_F(CatalogTest, RequireSuggestsTheNearestName) {
  folder_.copy(kGoodPlugin, "constant.so");
  const Catalog catalog = Catalog::scan({{folder_.path()}});
  try {
    static_cast<void>(catalog.require(Kind::scheduler, "constnat"));
    FAIL() << "found";
  } catch (const base::HostError& e) {
    EXPECT_EQ(e.code(), base::ExitCode::plugin);
    EXPECT_STREQ(e.what(), "there is no scheduler `constnat`");
    EXPECT_EQ(e.hint(), "did you mean `constant`?");
  }
  EXPECT_THROW(static_cast<void>(catalog.require(Kind::attack, "constant")), base::HostError);
}

TEST_F(CatalogTest, AGivenFolderWithoutPluginsIsNamed) {
  fs::create_directories(folder_.path() / "lib/backstop/plugins/defenses");
  const Catalog catalog = Catalog::scan({{folder_.path(), false, true}});
  EXPECT_EQ(catalog.hint_for_unknown(Kind::defense, "mine", ""),
            "`--plugin-path " + folder_.path().string() +
                "` holds no plugin, neither itself nor in its subfolders `attacks`, `defenses`, "
                "`schedulers` and `datasets`");
  EXPECT_EQ(Catalog::scan({{folder_.path()}}).hint_for_unknown(Kind::defense, "mine", "no"), "no");
}

TEST_F(CatalogTest, RequireSaysWhyAPluginIsRefused) {
  folder_.copy(kBadPlugins / "wrong-torch.so", "x.so");
  folder_.copy(kGoodPlugin, "nad.so");
  fs::resize_file(folder_.path() / "nad.so", 100);
  const Catalog catalog = Catalog::scan({{folder_.path()}});
  const auto message = [&](Kind kind, const char* name) -> std::string {
    try {
      static_cast<void>(catalog.require(kind, name));
    } catch (const base::HostError& e) {
      return e.what();
    }
    return {};
  };
  EXPECT_THAT(message(Kind::scheduler, "wrong-torch"), HasSubstr("x.so: built for LibTorch 0.4.1"));
  EXPECT_THAT(message(Kind::defense, "nad"), HasSubstr("nad.so: file is truncated"));
}

TEST_F(CatalogTest, ScansTheBuiltInPluginsQuickly) {
  const auto start = std::chrono::steady_clock::now();
  const Catalog catalog = Catalog::scan({{built_in(), true}, {kBadPlugins, false, true}});
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_LT(took, std::chrono::milliseconds(500)) << "ten times what a slow machine needs";
  EXPECT_NE(catalog.find(Kind::scheduler, "constant"), nullptr);
}

TEST_F(CatalogTest, SearchPathIsInTheDocumentedOrder) {
  fs::create_directories(folder_.path() / "data/backstop/plugins");
  fs::create_directory(folder_.path() / "given");
  const Variable path("BACKSTOP_PLUGIN_PATH", "/from/environment:/and/another");
  const auto found = Catalog::search_path({(folder_.path() / "given").string()});
  EXPECT_THAT(folders_of(found),
              ElementsAre(folder_.path() / "given", "/from/environment", "/and/another",
                          folder_.path() / "data/backstop/plugins", built_in()));
  EXPECT_TRUE(found.front().given);
  EXPECT_TRUE(found.back().built_in);
}

TEST_F(CatalogTest, TheUsersFolderCountsOnlyIfItExists) {
  EXPECT_THAT(folders_of(Catalog::search_path({})), ElementsAre(built_in()));
}

TEST_F(CatalogTest, TheUsersFolderIsUnderHomeWithoutXdg) {
  const Variable no_data("XDG_DATA_HOME", nullptr);
  const Variable home("HOME", folder_.path().c_str());
  fs::create_directories(folder_.path() / ".local/share/backstop/plugins");
  EXPECT_THAT(folders_of(Catalog::search_path({})),
              ElementsAre(folder_.path() / ".local/share/backstop/plugins", built_in()));
}

TEST_F(CatalogTest, AnEmptyVariableLeavesOnlyTheBuiltInFolder) {
  fs::create_directories(folder_.path() / "data/backstop/plugins");
  const Variable path("BACKSTOP_PLUGIN_PATH", "");
  EXPECT_THAT(folders_of(Catalog::search_path({})), ElementsAre(built_in()));
}

TEST_F(CatalogTest, TheCurrentFolderIsNeverSearched) {
  for (const char* bad : {"relative", ".", "/a::/b", "/a:", ":/a", ":"}) {
    const Variable path("BACKSTOP_PLUGIN_PATH", bad);
    EXPECT_EQ(failure_of_search_path({}), base::ExitCode::usage) << bad;
  }
}

TEST_F(CatalogTest, AGivenFolderMustExistAndIsMadeAbsolute) {
  EXPECT_EQ(failure_of_search_path({""}), base::ExitCode::usage);
  EXPECT_EQ(failure_of_search_path({(folder_.path() / "none").string()}),
            base::ExitCode::environment);
  EXPECT_EQ(failure_of_search_path({kGoodPlugin.string()}), base::ExitCode::environment);
  const auto found = Catalog::search_path({"."});
  EXPECT_EQ(fs::canonical(found.front().folder), fs::canonical(fs::current_path()));
  EXPECT_TRUE(found.front().folder.is_absolute());
}

TEST(Incompatibility, AHostSupportsOlderMinors) {
  BuildFacts host = own_build_facts(), plugin = host;
  host.abi = "1.3";
  for (const char* good : {"1.0", "1.3"}) {
    plugin.abi = good;
    EXPECT_FALSE(incompatibility(plugin, host)) << good;
  }
  for (const char* bad : {"0.3", "2.0", "2.3"}) {
    plugin.abi = bad;
    EXPECT_TRUE(incompatibility(plugin, host)) << bad;
  }
  plugin.abi = "1.4";
  EXPECT_EQ(message_of(incompatibility(plugin, host).value()),
            "built for SDK ABI 1.4, but this host supports 1.0 to 1.3");
  EXPECT_THAT(incompatibility(plugin, host)->hint, HasSubstr("upgrade backstop"));
}

TEST(Incompatibility, LibTorchPatchMayDiffer) {
  BuildFacts host = own_build_facts(), plugin = host;
  host.torch = "1.13.0";
  plugin.torch = "1.13.1+cu117";
  EXPECT_FALSE(incompatibility(plugin, host));
  plugin.torch = "1.1.0";
  EXPECT_TRUE(incompatibility(plugin, host));
  plugin.torch = "2.13.0";
  EXPECT_TRUE(incompatibility(plugin, host));
}

TEST(Incompatibility, EveryOtherFactMustBeEqual) {
  BuildFacts host = own_build_facts(), plugin = host;
  host.sanitizer = "none";
  plugin.sanitizer = "thread";
  EXPECT_EQ(message_of(incompatibility(plugin, host).value()),
            "built with the thread sanitizer, but this host without a sanitizer");
  EXPECT_EQ(message_of(incompatibility(host, plugin).value()),
            "built without a sanitizer, but this host with the thread sanitizer");
  plugin = host;
  plugin.cxx11_abi = !host.cxx11_abi;
  EXPECT_TRUE(incompatibility(plugin, host));
  plugin = host;
  plugin.glibcxx_debug = !host.glibcxx_debug;
  EXPECT_THAT(message_of(incompatibility(plugin, host).value()), HasSubstr("_GLIBCXX_DEBUG"));
  plugin = host;
  plugin.compiler = "another";
  EXPECT_FALSE(incompatibility(plugin, host));
}

}  // namespace
}  // namespace backstop::catalog
