#include "host/catalog/catalog.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

#include "host/base/error.hpp"
#include "host/base/text.hpp"
#include "host/catalog/elf/elf_note.hpp"

namespace backstop::catalog {
namespace {

namespace fs = std::filesystem;

std::string env_or_empty(const char* name) {
  const char* value = ::secure_getenv(name);
  return value != nullptr ? value : "";
}

/// The user's folder for plugins; empty where there is none.
fs::path user_folder() {
  fs::path data = env_or_empty("XDG_DATA_HOME");
  if (!data.is_absolute()) {  // a relative one is to be ignored, says the XDG specification
    const fs::path home = env_or_empty("HOME");
    if (!home.is_absolute()) return {};
    data = home / ".local/share";
  }
  std::error_code error;
  const fs::path folder = data / "backstop/plugins";
  return fs::is_directory(folder, error) ? folder : fs::path();
}

fs::path built_in_folder() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) {
    throw base::HostError(base::ExitCode::environment,
                          "cannot read /proc/self/exe: " + error.message(), "mount /proc");
  }
  return program.parent_path().parent_path() / "lib/backstop/plugins";
}

fs::path given_folder(const std::string& text) {
  if (text.empty())
    throw base::HostError(base::ExitCode::usage, "`--plugin-path` is empty, expected a folder");
  std::error_code error;
  const fs::path folder = fs::absolute(text, error).lexically_normal();
  if (error || !fs::is_directory(folder, error)) {
    throw base::HostError(base::ExitCode::environment,
                          "`--plugin-path` is " + text + ", which is no folder");
  }
  return folder;
}

std::optional<Refusal> unsafe(const std::vector<fs::path>& paths) {
  for (const fs::path& path : paths) {
    if (!writable_by_everyone(path)) continue;
    return Refusal{path.string() + " is writable by everyone, so anyone may have put code there",
                   "chmod o-w " + path.string() + ", or name the folder with --plugin-path"};
  }
  return std::nullopt;
}

std::string sanitizer_name(const std::string& sanitizer) {
  return sanitizer == "none" ? "without a sanitizer" : "with the " + sanitizer + " sanitizer";
}

PluginEntry read_entry(const fs::path& path, std::optional<Kind> folder_kind) {
  PluginEntry entry;
  entry.path = path;
  entry.manifest.name = path.stem().string();
  entry.manifest.kind = folder_kind.value_or(Kind::attack);
  try {
    const PluginNotes notes = read_notes(path);
    entry.facts = parse_build_facts(notes.build_facts, "build facts");
    entry.refusal = incompatibility(*entry.facts, own_build_facts());
    entry.manifest = parse_manifest(notes.manifest, "manifest");
  } catch (const base::HostError& e) {
    // A newer ABI may have a newer kind of manifest: then the ABI is what matters.
    if (!entry.refusal) entry.refusal = Refusal{e.what(), e.hint()};
  }
  return entry;
}

/// The entries for a folder's own *.so, by name.
std::vector<PluginEntry> read_folder(const fs::path& folder, std::optional<Kind> kind) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".so") files.push_back(it->path());
  }
  std::sort(files.begin(), files.end());
  std::vector<PluginEntry> entries;
  for (const fs::path& file : files) entries.push_back(read_entry(file, kind));
  if (error && error != std::errc::no_such_file_or_directory) {
    PluginEntry entry;
    entry.path = folder;
    entry.manifest.name = folder.filename().string();
    entry.refusal = Refusal{"folder cannot be listed: " + error.message(), ""};
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// Everything below one element of the search path.
std::vector<PluginEntry> read_search_path(const SearchPath& path) {
  std::vector<PluginEntry> entries = read_folder(path.folder, std::nullopt);
  for (const Kind kind : kKinds) {
    const fs::path folder = path.folder / (std::string(to_string(kind)) + "s");
    for (PluginEntry& entry : read_folder(folder, kind)) entries.push_back(std::move(entry));
  }
  for (PluginEntry& entry : entries) {
    entry.built_in = path.built_in;
    if (path.given || entry.refusal) continue;
    entry.refusal = unsafe({path.folder, entry.path.parent_path(), entry.path});
  }
  return entries;
}

bool same_plugin(const PluginEntry& a, const PluginEntry& b) {
  return a.manifest.kind == b.manifest.kind && a.manifest.name == b.manifest.name;
}

/// Nobody can say which of two plugins of one name in one folder is meant.
void refuse_namesakes(std::vector<PluginEntry>& entries) {
  const auto other_than = [&](const PluginEntry& entry) {
    return std::find_if(entries.begin(), entries.end(), [&](const PluginEntry& other) {
      return &other != &entry && !other.refusal && same_plugin(entry, other);
    });
  };
  std::vector<std::pair<PluginEntry*, Refusal>> refusals;
  for (PluginEntry& entry : entries) {
    const auto other = entry.refusal ? entries.end() : other_than(entry);
    if (other == entries.end()) continue;
    refusals.emplace_back(
        &entry, Refusal{"two files hold " + std::string(to_string(entry.manifest.kind)) + " `" +
                            entry.manifest.name + "`: " + entry.path.string() + " and " +
                            other->path.string(),
                        "remove one of them"});
  }
  for (auto& [entry, refusal] : refusals) entry->refusal = std::move(refusal);
}

}  // namespace

bool writable_by_everyone(const fs::path& path) {
  std::error_code error;
  const fs::perms mode = fs::status(path, error).permissions();
  if (error) return false;
  const auto has = [&](fs::perms bit) { return (mode & bit) != fs::perms::none; };
  return has(fs::perms::others_write) && !has(fs::perms::sticky_bit);
}

std::optional<Refusal> incompatibility(const BuildFacts& plugin, const BuildFacts& host) {
  const auto plugin_abi = major_minor(plugin.abi), host_abi = major_minor(host.abi);
  const auto plugin_torch = major_minor(plugin.torch), host_torch = major_minor(host.torch);
  if (!plugin_abi || !host_abi || !plugin_torch || !host_torch) {
    return Refusal{"built for SDK ABI " + plugin.abi + " and LibTorch " + plugin.torch +
                       ", which are no versions",
                   "rebuild the plugin with this host's SDK"};
  }
  const bool stable = host_abi->first > 0 && plugin_abi->first == host_abi->first;
  if (!(stable ? plugin_abi->second <= host_abi->second : *plugin_abi == *host_abi)) {
    const std::string major = std::to_string(host_abi->first);
    const std::string spoken =
        host_abi->first > 0 && host_abi->second > 0 ? major + ".0 to " + host.abi : host.abi;
    return Refusal{"built for SDK ABI " + plugin.abi + ", this host speaks " + spoken,
                   stable ? "upgrade backstop, or rebuild the plugin with this host's SDK"
                          : "rebuild the plugin with this host's SDK"};
  }
  if (*plugin_torch != *host_torch) {
    return Refusal{"built for LibTorch " + plugin.torch + ", this host uses " + host.torch,
                   "rebuild the plugin against LibTorch " + std::to_string(host_torch->first) +
                       "." + std::to_string(host_torch->second)};
  }
  const auto flag_differs = [](const std::string& flag, bool plugin_has, bool host_has) {
    const auto digit = [](bool on) { return std::string(on ? "1" : "0"); };
    return Refusal{"built with " + flag + "=" + digit(plugin_has) + ", this host with " + flag +
                       "=" + digit(host_has),
                   "rebuild the plugin with -D" + flag + "=" + digit(host_has)};
  };
  if (plugin.cxx11_abi != host.cxx11_abi) {
    return flag_differs("_GLIBCXX_USE_CXX11_ABI", plugin.cxx11_abi, host.cxx11_abi);
  }
  if (plugin.glibcxx_debug != host.glibcxx_debug) {
    return Refusal{std::string("built ") + (plugin.glibcxx_debug ? "with" : "without") +
                       " _GLIBCXX_DEBUG, this host " + (host.glibcxx_debug ? "with" : "without") +
                       " it",
                   std::string("rebuild the plugin ") + (host.glibcxx_debug ? "with" : "without") +
                       " -D_GLIBCXX_DEBUG"};
  }
  if (plugin.sanitizer != host.sanitizer) {
    return Refusal{"built " + sanitizer_name(plugin.sanitizer) + ", this host " +
                       sanitizer_name(host.sanitizer),
                   "rebuild the plugin " + sanitizer_name(host.sanitizer)};
  }
  return std::nullopt;
}

std::vector<SearchPath> Catalog::search_path(const std::vector<std::string>& from_command_line) {
  std::vector<SearchPath> folders;
  for (const std::string& text : from_command_line) {
    folders.push_back({given_folder(text), false, true});
  }
  const char* variable = ::secure_getenv("BACKSTOP_PLUGIN_PATH");
  const std::string elements = variable != nullptr ? variable : "";
  for (std::size_t begin = 0; !elements.empty() && begin <= elements.size();) {
    const std::size_t end = std::min(elements.find(':', begin), elements.size());
    const fs::path folder = elements.substr(begin, end - begin);
    if (!folder.is_absolute()) {
      throw base::HostError(base::ExitCode::usage,
                            "BACKSTOP_PLUGIN_PATH is `" + elements + "`: its element `" +
                                folder.string() + "` is not an absolute path",
                            "separate absolute paths with single colons");
    }
    folders.push_back({folder.lexically_normal(), false, false});
    begin = end + 1;
  }
  if (variable == nullptr || !elements.empty()) {
    if (const fs::path folder = user_folder(); !folder.empty()) folders.push_back({folder});
  }
  folders.push_back({built_in_folder(), true, false});
  return folders;
}

Catalog Catalog::scan(const std::vector<SearchPath>& folders) {
  Catalog catalog;
  std::set<fs::path> seen;
  for (SearchPath path : folders) {
    std::error_code error;
    const fs::path real = fs::canonical(path.folder, error);
    if (!error) path.folder = real;  // otherwise listing it says why not
    if (!seen.insert(path.folder).second) continue;
    std::vector<PluginEntry> entries = read_search_path(path);
    refuse_namesakes(entries);
    const std::size_t earlier = catalog.entries_.size();
    for (PluginEntry& entry : entries) {
      const auto end = catalog.entries_.begin() + static_cast<std::ptrdiff_t>(earlier);
      entry.shadowed = !entry.refusal &&
                       std::any_of(catalog.entries_.begin(), end, [&](const PluginEntry& other) {
                         return !other.refusal && same_plugin(entry, other);
                       });
      catalog.entries_.push_back(std::move(entry));
    }
  }
  return catalog;
}

PluginEntry Catalog::of_file(const fs::path& path) {
  return read_entry(fs::absolute(path).lexically_normal(), std::nullopt);
}

const PluginEntry* Catalog::find(Kind kind, std::string_view name) const {
  for (const PluginEntry& entry : entries_) {
    if (entry.manifest.kind == kind && entry.manifest.name == name && !entry.refusal &&
        !entry.shadowed) {
      return &entry;
    }
  }
  return nullptr;
}

const PluginEntry* Catalog::shadowed_by(const PluginEntry& entry) const {
  if (entry.refusal || entry.shadowed) return nullptr;
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const PluginEntry& other) {
    return other.shadowed && same_plugin(other, entry);
  });
  return found == entries_.end() ? nullptr : &*found;
}

const PluginEntry& Catalog::require(Kind kind, std::string_view name) const {
  if (const PluginEntry* found = find(kind, name)) return *found;
  const std::string what = std::string(to_string(kind)) + " `" + std::string(name) + "`";
  for (const PluginEntry& entry : entries_) {
    const bool unread = entry.manifest.version.empty();
    if (entry.refusal && entry.manifest.name == name && (unread || entry.manifest.kind == kind)) {
      throw base::HostError(
          base::ExitCode::plugin,
          what + " cannot be used: " + entry.path.string() + ": " + entry.refusal->message,
          entry.refusal->hint);
    }
  }
  if (const auto near = base::nearest(name, names(kind))) {
    throw base::HostError(base::ExitCode::plugin, "there is no " + what,
                          "did you mean `" + *near + "`?");
  }
  throw base::HostError(base::ExitCode::plugin, "there is no " + what,
                        "`backstop list` shows what there is");
}

std::vector<std::string> Catalog::names(Kind kind) const {
  std::vector<std::string> names;
  for (const PluginEntry& entry : entries_) {
    if (entry.manifest.kind == kind && !entry.refusal && !entry.shadowed) {
      names.push_back(entry.manifest.name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace backstop::catalog
