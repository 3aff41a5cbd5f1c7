// Every kind of plugin that cannot be used, through the program: `inspect` of the file, `list` of
// its folder, and `run` of a recipe that names it. Each gets its own message and exit code 3, and
// none crashes.
#include <cstring>
#include <functional>

#include <elf.h>

#include <sys/stat.h>

#include "host/catalog/build_facts.hpp"
#include "tests/support/end_to_end.hpp"

namespace backstop::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const fs::path kBadPlugins = BACKSTOP_BAD_PLUGINS;
const fs::path kConstant = BACKSTOP_BUILT_IN_PLUGINS "/schedulers/constant.so";

class Refusals : public EndToEnd {
 protected:
  void SetUp() override {
    EndToEnd::SetUp();
    fs::create_directory(plugins());
  }
  [[nodiscard]] fs::path plugins() const { return folder_ / "plugins"; }

  [[nodiscard]] Outcome backstop(std::vector<std::string> arguments,
                                 const std::string& plugin_path = {}) const {
    return Process({BACKSTOP_PROGRAM,
                    std::move(arguments),
                    {{"HOME", folder_.string()}, {"BACKSTOP_PLUGIN_PATH", plugin_path}}})
        .wait();
  }
  [[nodiscard]] Outcome list() const {
    return backstop({"list", "--plugin-path", plugins().string()});
  }
  /// Runs a recipe whose second defense trains with the scheduler `name`.
  [[nodiscard]] Outcome run_with(const std::string& name) const {
    return run({"--plugin-path", plugins().string(), "--set",
                "defense.1.scheduler={ plugin = \"" + name + "\" }"});
  }
};

// -- refused before any plugin code runs --

struct Case {
  std::string name;
  std::function<void(const fs::path&)> make;  ///< creates it at that path
  std::string sentence;
};

void PrintTo(const Case& one, std::ostream* out) {
  *out << one.name;
}

std::function<void(const fs::path&)> bad(const std::string& name) {
  return [name](const fs::path& to) { fs::copy_file(kBadPlugins / (name + ".so"), to); };
}

std::function<void(const fs::path&)> bytes(const std::string& text) {
  return [text](const fs::path& to) { std::ofstream(to, std::ios::binary) << text; };
}

/// A good plugin with `change` applied to its bytes.
std::function<void(const fs::path&)> changed(std::function<void(std::string&)> change) {
  return [change = std::move(change)](const fs::path& to) {
    std::string content = read(kConstant);
    change(content);
    std::ofstream(to, std::ios::binary) << content;
  };
}

/// Makes the address of the string table, which the dynamic linker would follow, point nowhere.
void damage_dynamic_section(std::string& content) {
  Elf64_Ehdr header{};
  std::memcpy(&header, content.data(), sizeof header);
  Elf64_Phdr segment{};
  for (std::size_t i = 0; segment.p_type != PT_DYNAMIC; ++i)
    std::memcpy(&segment, &content.at(header.e_phoff + i * sizeof segment), sizeof segment);
  for (std::size_t at = segment.p_offset;; at += sizeof(Elf64_Dyn)) {
    Elf64_Dyn entry{};
    std::memcpy(&entry, &content.at(at), sizeof entry);
    if (entry.d_tag != DT_STRTAB) continue;
    entry.d_un.d_ptr = 0x7000000;
    std::memcpy(&content.at(at), &entry, sizeof entry);
    return;
  }
}

std::vector<Case> cases() {
  const auto& host = catalog::own_build_facts();
  return {
      {"AnotherAbi", bad("wrong-abi"),
       "built for SDK ABI 99.7, but this host supports 1.0 to " + host.abi},
      {"AnotherLibTorch", bad("wrong-torch"),
       "built for LibTorch 0.4.1, but this host uses " + host.torch},
      {"AnotherLibstdcxxAbi", bad("wrong-cxx11-abi"), "built with _GLIBCXX_USE_CXX11_ABI="},
      {"AnotherSanitizer", bad("wrong-sanitizer"), " sanitizer, but this host with"},
      {"AnotherProcessor", changed([](auto& content) { content[18] = char{EM_68K}; }),
       "built for ELF machine 4, but this host is "},
      {"AnotherWordSize", changed([](auto& content) { content[EI_CLASS] = ELFCLASS32; }),
       "a library of ELF class 1, but this host is 64-bit (class 2)"},
      {"NoPlugin", bad("no-note"), "not a Backstop plugin: it has no .note.backstop section"},
      {"NoManifest", bad("no-manifest"),
       "not a Backstop plugin: .note.backstop does not hold a manifest"},
      {"BrokenManifest", bad("broken-manifest"), "manifest:2: "},
      {"InvalidManifest", bad("invalid-manifest"),
       "manifest:6: unknown key `sumary`; did you mean `summary`?"},
      {"Truncated", changed([](auto& content) { content.resize(5000); }), "file is truncated: "},
      {"Empty", bytes(""), "file is empty"},
      {"Text", bytes("INPUT(libm.so)\n"), "not a Backstop plugin: not an ELF file"},
      {"Corrupt", changed(damage_dynamic_section),
       "file is damaged: DT_STRTAB points to address 0x7000000, where nothing of the file is "
       "loaded"},
      {"Folder", [](const fs::path& to) { fs::create_directory(to); },
       "not a regular file but a directory"},
      {"Fifo", [](const fs::path& to) { ASSERT_EQ(::mkfifo(to.c_str(), 0600), 0); },
       "not a regular file but a FIFO"},
      {"DanglingLink", [](const fs::path& to) { fs::create_symlink("nowhere.so", to); },
       "dangling link: it points to nowhere.so, which does not exist"},
      {"LinkToItself", [](const fs::path& to) { fs::create_symlink(to.filename(), to); },
       "cannot be opened: Too many levels of symbolic links"},
  };
}

class RefusedPlugin : public Refusals, public ::testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    Refusals::SetUp();
    GetParam().make(file());
  }
  [[nodiscard]] fs::path file() const { return plugins() / "unusable.so"; }
};

TEST_P(RefusedPlugin, InspectGivesTheReason) {
  const Outcome outcome = backstop({"inspect", file().string()});
  EXPECT_EQ(outcome.code, 3) << outcome.signal;
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("error: "), HasSubstr(GetParam().sentence), HasSubstr("\nhint: ")));
}

TEST_P(RefusedPlugin, InspectGivesTheReasonInJsonToo) {
  const Outcome outcome = backstop({"inspect", file().string(), "--json"});
  EXPECT_EQ(outcome.code, 3) << outcome.signal;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_THAT(json["refusal"]["message"].get<std::string>(), HasSubstr(GetParam().sentence));
}

TEST_P(RefusedPlugin, ListShowsItWithTheReason) {
  const Outcome outcome = list();
  EXPECT_EQ(outcome.code, 0) << outcome.signal << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(file().string()), HasSubstr("refused: "),
                                 HasSubstr(GetParam().sentence)));
  // The other plugins can still be used.
  EXPECT_THAT(outcome.out, HasSubstr("super-fine-tuning"));
}

TEST_P(RefusedPlugin, RunOfARecipeThatNamesItWritesNothing) {
  const auto plugins_json = nlohmann::json::parse(
      backstop({"list", "--json", "--plugin-path", plugins().string()}).out)["plugins"];
  const auto found = std::find_if(plugins_json.begin(), plugins_json.end(),
                                  [&](const auto& one) { return one["path"] == file().string(); });
  ASSERT_NE(found, plugins_json.end());
  const Outcome outcome = run_with((*found)["name"].template get<std::string>());
  EXPECT_EQ(outcome.code, 3) << outcome.signal << outcome.err;
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("cannot be used: " + file().string() + ": "),
                                 HasSubstr(GetParam().sentence)));
  EXPECT_FALSE(fs::exists(out()));
}

INSTANTIATE_TEST_SUITE_P(Each, RefusedPlugin, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param.name; });

// -- refused when loaded --

class UnloadablePlugin : public Refusals,
                         public ::testing::WithParamInterface<std::pair<const char*, const char*>> {
};

TEST_P(UnloadablePlugin, RunGivesTheReason) {
  const auto& [name, sentence] = GetParam();
  const fs::path file = plugins() / (std::string(name) + ".so");
  bad(name)(file);
  const Outcome outcome = run_with(name);
  EXPECT_EQ(outcome.code, 3) << outcome.signal << outcome.err;
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("error: "), HasSubstr(sentence), HasSubstr("\nhint: ")));
  EXPECT_THAT(outcome.err, HasSubstr(name));
}

TEST_P(UnloadablePlugin, ListRunsNoneOfItsCode) {
  const auto& [name, sentence] = GetParam();
  bad(name)(plugins() / "x.so");
  const Outcome outcome = list();
  EXPECT_EQ(outcome.code, 0) << outcome.signal << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(name), Not(HasSubstr("refused"))));
}

using Pair = std::pair<const char*, const char*>;
INSTANTIATE_TEST_SUITE_P(
    Each, UnloadablePlugin,
    ::testing::Values(Pair("no-entry", "it does not export backstop_plugin_v1"),
                      Pair("undefined-symbol", "undefined symbol: "),
                      Pair("null-descriptor", "backstop_plugin_v1() returns a null pointer"),
                      Pair("wrong-magic", "its descriptor's magic number is 12245933"),
                      Pair("small-descriptor", "its descriptor is 16 bytes long"),
                      Pair("wrong-kind", "its manifest says `scheduler`"),
                      Pair("stale-note", "its descriptor says ABI "),
                      Pair("throws-42", "threw something that is not a std::exception"),
                      Pair("aborts-on-load", "SIGABRT")),
    [](const auto& one) {
      std::string name = one.param.first;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

TEST_F(Refusals, PluginThatHangsWhenItIsLoadedIsListed) {
  bad("hangs-on-load")(plugins() / "hangs-on-load.so");
  EXPECT_EQ(list().code, 0);
  EXPECT_EQ(backstop({"inspect", (plugins() / "hangs-on-load.so").string()}).code, 0);
}

// -- folders and names --

TEST_F(Refusals, TwoPluginsOfOneNameInOneFolder) {
  fs::copy_file(kConstant, plugins() / "one.so");
  fs::copy_file(kConstant, plugins() / "two.so");
  const std::string sentence = "two files hold scheduler `constant`: ";
  const Outcome listed = list();
  EXPECT_THAT(listed.out, AllOf(HasSubstr(sentence + (plugins() / "one.so").string() + " and " +
                                          (plugins() / "two.so").string()),
                                HasSubstr(sentence + (plugins() / "two.so").string())));
  const Outcome inspected =
      backstop({"inspect", (plugins() / "one.so").string(), "--plugin-path", plugins().string()});
  EXPECT_EQ(inspected.code, 3);
  EXPECT_THAT(inspected.err, AllOf(HasSubstr(sentence), HasSubstr("hint: remove one of them")));
  // Whoever names the folder does not mean the built-in one.
  const Outcome checked =
      backstop({"check", recipe().string(), "--plugin-path", plugins().string()});
  EXPECT_EQ(checked.code, 3);
  EXPECT_THAT(checked.err, HasSubstr(sentence));
}

TEST_F(Refusals, DamagedPluginInAGivenFolderIsNotReplacedByTheBuiltInOne) {
  fs::copy_file(kConstant, plugins() / "constant.so");
  fs::resize_file(plugins() / "constant.so", 5000);
  const std::string sentence =
      "scheduler `constant` cannot be used: " + (plugins() / "constant.so").string() +
      ": file is truncated";
  const Outcome checked =
      backstop({"check", recipe().string(), "--plugin-path", plugins().string()});
  EXPECT_EQ(checked.code, 3);
  EXPECT_THAT(checked.err, HasSubstr(sentence));
  const Outcome ran = run({"--plugin-path", plugins().string()});
  EXPECT_EQ(ran.code, 3);
  EXPECT_THAT(ran.err, HasSubstr(sentence));
  EXPECT_FALSE(fs::exists(out()));
  // Nobody has named this folder.
  EXPECT_EQ(backstop({"check", recipe().string()}, plugins().string()).code, 0);
}

TEST_F(Refusals, TwoPluginsOfANameThatNoOtherPluginHas) {
  bad("throws-42")(plugins() / "one.so");
  bad("throws-42")(plugins() / "two.so");
  const Outcome outcome = run_with("throws-42");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("two files hold scheduler `throws-42`: "));
}

TEST_F(Refusals, FolderThatEveryoneMayWriteTo) {
  bad("throws-42")(plugins() / "throws-42.so");
  fs::permissions(plugins(), fs::perms::all);
  const std::string sentence = plugins().string() + " is writable by everyone";
  const Outcome listed = backstop({"list"}, plugins().string());
  EXPECT_EQ(listed.code, 0);
  EXPECT_THAT(listed.out, HasSubstr("refused: " + sentence));
  const Outcome inspected = backstop({"inspect", "throws-42"}, plugins().string());
  EXPECT_EQ(inspected.code, 3);
  EXPECT_THAT(inspected.err, AllOf(HasSubstr(sentence), HasSubstr("hint: chmod o-w ")));
  Start start = command({"--set", "defense.1.scheduler={ plugin = \"throws-42\" }"});
  start.environment["BACKSTOP_PLUGIN_PATH"] = plugins().string();
  const Outcome ran = Process(start).wait();
  EXPECT_EQ(ran.code, 3);
  EXPECT_THAT(ran.err, HasSubstr(sentence));
}

class Shadowing : public Refusals {
 protected:
  void SetUp() override {
    Refusals::SetUp();
    fs::copy_file(kConstant, plugins() / "mine.so");
  }
  [[nodiscard]] std::string warning() const {
    return "warning: scheduler `constant` is " + (plugins() / "mine.so").string() +
           ", not the built-in " + fs::canonical(kConstant).string() + "\n";
  }
  [[nodiscard]] static std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  }
};

TEST_F(Shadowing, ListShowsBoth) {
  const Outcome outcome = list();
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr((plugins() / "mine.so").string()),
                    HasSubstr("not used: an earlier folder has a plugin with this name")));
  const auto json =
      nlohmann::json::parse(backstop({"list", "--json", "--plugin-path", plugins().string()}).out);
  int used = 0, shadowed = 0;
  for (const auto& one : json["plugins"]) {
    if (one["name"] != "constant") continue;
    (one["shadowed"] ? shadowed : used) += 1;
    EXPECT_EQ(one["shadowed"], one["built_in"]);
  }
  EXPECT_EQ(used, 1);
  EXPECT_EQ(shadowed, 1);
}

TEST_F(Shadowing, CheckNamesTheUsedPluginOnce) {
  const Outcome outcome =
      backstop({"check", recipe().string(), "--plugin-path", plugins().string()});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(count(outcome.err, warning()), 1U) << outcome.err;
}

TEST_F(Shadowing, RunNamesItToo) {
  const Outcome outcome = run({"--plugin-path", plugins().string()});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(count(outcome.err, warning()), 1U) << outcome.err;
}

TEST_F(Shadowing, WithoutItNothingIsReported) {
  EXPECT_EQ(backstop({"check", recipe().string()}).err, "");
}

}  // namespace
}  // namespace backstop::testing
