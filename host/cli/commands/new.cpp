// backstop new: creates a project for a new plugin, which builds as it is, from the SDK's
// templates.
#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

#include <boost/dll/runtime_symbol_info.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "host/base/text.hpp"
#include "host/cli/command.hpp"

namespace backstop::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDescription =
    "Creates a project for a new plugin in the folder NAME: source, manifest, test, recipe, CMake "
    "files\n"
    "and README. It builds, passes its test and runs as it is. KIND is attack, defense, scheduler "
    "or\n"
    "dataset. NAME consists of lowercase letters, digits and hyphens, and starts with a letter.\n";

// -- the name --

constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kNameCharacters = "abcdefghijklmnopqrstuvwxyz0123456789-";

/// A valid name that is close to `name`: "My_Defense" gives "my-defense", "3d" gives "d".
std::string corrected(const std::string& name) {
  std::string result;
  for (const char c : name) {
    const char small = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    result += kNameCharacters.find(small) == std::string_view::npos ? '-' : small;
  }
  result.erase(0, std::min(result.find_first_of(kLetters), result.size()));
  result.erase(result.find_last_not_of('-') + 1);
  return result;
}

/// The character at `at`, all of its bytes in UTF-8.
std::string character(const std::string& text, std::size_t at) {
  std::size_t end = at + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) ++end;
  return text.substr(at, end - at);
}

void check_name(const std::string& name) {
  const auto refuse = [&name](const std::string& what) {
    const std::string better = corrected(name);
    throw base::HostError(
        base::ExitCode::usage,
        fmt::format("`{}` is not a valid plugin name: {}; use lowercase letters, "
                    "digits and hyphens, starting with a letter",
                    name, what),
        better.empty() ? "for example `my-defense`" : fmt::format("try `{}`", better));
  };
  if (name.empty()) refuse("it is empty");
  if (const auto wrong = name.find_first_not_of(kNameCharacters); wrong != std::string::npos)
    refuse(fmt::format("it contains `{}`", character(name, wrong)));
  if (kLetters.find(name[0]) == std::string_view::npos)
    refuse(fmt::format("it starts with `{}`", name[0]));
}

void check_not_built_in(const catalog::Catalog& catalog, catalog::Kind kind,
                        const std::string& name) {
  for (const auto& entry : catalog.entries())
    if (entry.built_in && entry.manifest.kind == kind && entry.manifest.name == name)
      throw base::HostError(
          base::ExitCode::usage,
          fmt::format("there is already a built-in {} `{}`, which yours would hide",
                      to_string(kind), name),
          fmt::format("choose another name, such as `my-{}`", name));
}

/// "my-defense" gives "MyDefense". A result without lowercase letters ("e-o-f") could be a macro,
/// so the kind is appended to it.
std::string class_name(const std::string& name, catalog::Kind kind) {
  const auto camel = [](const std::string& words) {
    std::string result;
    bool starts_word = true;
    for (const char c : words) {
      if (c == '-') {
        starts_word = true;
      } else {
        const bool letter = kLetters.find(c) != std::string_view::npos;
        result += starts_word && letter ? static_cast<char>(c - 'a' + 'A') : c;
        starts_word = false;
      }
    }
    return result;
  };
  const std::string result = camel(name);
  const bool shouted = result.find_first_of(kLetters) == std::string::npos;
  return shouted ? result + camel(std::string(to_string(kind))) : result;
}

// -- the files --

/// What replaces each `@key@` in the names and texts of the templates.
using Values = std::map<std::string, std::string>;

std::string filled(std::string text, const Values& values) {
  for (const auto& [key, value] : values) {
    const std::string placeholder = "@" + key + "@";
    for (auto at = text.find(placeholder); at != std::string::npos;
         at = text.find(placeholder, at + value.size()))
      text.replace(at, placeholder.size(), value);
  }
  return text;
}

[[noreturn]] void fail(const std::string& what, const fs::path& path, const std::error_code& error,
                       const std::string& hint) {
  throw base::HostError(base::ExitCode::environment,
                        fmt::format("cannot {} `{}`: {}", what, path.string(), error.message()),
                        hint);
}

std::error_code last_error() {
  return {errno, std::generic_category()};
}

/// Where this program is installed: its templates and the package for CMake are there, too.
fs::path prefix() {
  return boost::dll::program_location().parent_path().parent_path();
}

/// What a preset's variables need so that CMake finds that package.
std::string prefix_path() {
  if (prefix() == "/usr") return "";
  return ",\n        \"CMAKE_PREFIX_PATH\": " + base::json_text(prefix().string());
}

/// The files of a template, by their name in the project.
std::map<std::string, std::string> read_template(catalog::Kind kind, const Values& values) {
  std::map<std::string, std::string> files;
  for (const std::string_view part : {std::string_view("common"), to_string(kind)}) {
    const fs::path folder = prefix() / "share/backstop/templates" / part;
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      std::ifstream stream(entry->path(), std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(stream), {}};
      if (!stream) fail("read", entry->path(), last_error(), "reinstall libbackstop-dev");
      files[filled(entry->path().filename().string(), values)] = filled(text, values);
    }
    if (error == std::errc::no_such_file_or_directory)
      throw base::HostError(
          base::ExitCode::environment,
          fmt::format("the folder of templates `{}` does not exist", folder.string()),
          "install the package libbackstop-dev, or reinstall backstop");
    if (error) fail("read", folder, error, "reinstall libbackstop-dev");
  }
  return files;
}

/// A folder that has another name until it is complete.
class Draft {
 public:
  explicit Draft(const fs::path& target)
      : target_(target),
        folder_(target.parent_path() /
                ("." + target.filename().string() + "." + std::to_string(getpid()))) {
    std::error_code error;
    fs::create_directories(target.parent_path(), error);
    if (!error && !fs::create_directory(folder_, error) && !error)
      error = std::make_error_code(std::errc::file_exists);
    if (error) fail("write", target_, error, kHint);
  }
  ~Draft() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  void write(const std::string& name, const std::string& text) const {
    std::ofstream stream(folder_ / name, std::ios::binary);
    stream << text;
    stream.close();
    if (!stream) fail("write", target_ / name, last_error(), kHint);
  }
  void finish() const {
    std::error_code error;
    fs::rename(folder_, target_, error);
    if (error) fail("write", target_, error, kHint);
  }

 private:
  static constexpr const char* kHint = "use `--out` to write to another folder";
  fs::path target_, folder_;
};

// -- the command --

base::ExitCode create(const Invocation& invocation) {
  const catalog::Kind kind = require_kind(invocation.arguments[0]);
  const std::string& name = invocation.arguments[1];
  check_name(name);
  check_not_built_in(invocation.catalog(), kind, name);
  const fs::path target = fs::path(invocation.one("out").value_or(".")) / name;
  const std::string shown = target.lexically_normal().string();
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(target, ignored)))
    throw base::HostError(base::ExitCode::usage,
                          fmt::format("`{}` already exists; nothing was written", shown),
                          "choose another name, or another folder with `--out`");

  const auto files = read_template(kind, {{"name", name},
                                          {"kind", std::string(to_string(kind))},
                                          {"Class", class_name(name, kind)},
                                          {"prefix_path", prefix_path()}});
  const Draft draft(target);
  for (const auto& [file, text] : files) draft.write(file, text);
  draft.finish();

  if (invocation.has("json")) {
    nlohmann::json names = nlohmann::json::array();
    for (const auto& [file, text] : files) names.push_back(file);
    print_json({{"schema", 1},
                {"kind", to_string(kind)},
                {"name", name},
                {"folder", shown},
                {"files", names}},
               true);
  }
  spdlog::info(
      "wrote {}\n"
      "\n"
      "next steps:\n"
      "  cd {}\n"
      "  cmake --workflow --preset check\n"
      "  backstop run recipe.toml --plugin-path build/lib/backstop/plugins\n"
      "\n"
      "start with {}.cpp; README.md explains the rest",
      shown, shown, name);
  return base::ExitCode::done;
}

void add_options(boost::program_options::options_description& options) {
  options.add_options()(
      "out", boost::program_options::value<std::vector<std::string>>()->value_name("DIR"),
      "create the folder NAME in DIR instead of the current folder");
}

}  // namespace

const Command kNew{
    "new", "create a project for a new plugin", "KIND NAME", kDescription, add_options, create};

}  // namespace backstop::cli
