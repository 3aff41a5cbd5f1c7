#include "host/catalog/catalog.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

#include <unistd.h>

#include <fmt/format.h>
#include <sys/stat.h>

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
  if (!data.is_absolute()) {  // the XDG specification says to ignore relative ones
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
                          fmt::format("cannot read /proc/self/exe: {}", error.message()),
                          "mount /proc");
  }
  return program.parent_path().parent_path() / "lib/backstop/plugins";
}

fs::path given_folder(const std::string& text) {
  if (text.empty()) throw base::HostError(base::ExitCode::usage, "`--plugin-path` needs a folder");
  std::error_code error;
  fs::path folder = fs::absolute(text, error).lexically_normal();
  if (error || !fs::is_directory(folder, error)) {
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("`--plugin-path {}` is not a directory", text));
  }
  if (::access(folder.c_str(), R_OK | X_OK) != 0)
    throw base::HostError(base::ExitCode::environment,
                          fmt::format("`--plugin-path {}` cannot be listed: {}", text,
                                      std::generic_category().message(errno)));
  return folder;
}

bool is_below(const fs::path& path, const fs::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end()).first ==
         folder.end();
}

bool writable_by_everyone(const struct stat& status) {
  return (status.st_mode & S_IWOTH) != 0;
}

bool sticky(const struct stat& status) {
  return (status.st_mode & S_ISVTX) != 0;
}

Refusal open_to_everyone(const fs::path& path) {
  return {
      fmt::format("{} is writable by everyone, so anyone may have put code there", path.string()),
      fmt::format("chmod o-w {}, or name the folder with --plugin-path", path.string())};
}

/// Why others may have put or replaced what is at `path`, if they may. Of the folders on the way,
/// links followed, only those in `within` count.
std::optional<Refusal> fault_on_the_way(const fs::path& path, const fs::path& within) {
  std::deque<fs::path> left(path.begin(), path.end());
  fs::path at = "/";
  struct stat folder {
  }, entry{};
  for (int links = 40; !left.empty();) {
    const fs::path part = left.front();
    left.pop_front();
    if (part == "..") at = at.parent_path();
    if (part.empty() || part == "/" || part == "." || part == "..") continue;
    const fs::path next = at / part;
    if (::stat(at.c_str(), &folder) != 0 || ::lstat(next.c_str(), &entry) != 0)
      return std::nullopt;  // whoever reads it says why
    if (writable_by_everyone(folder) && is_below(at, within)) {
      if (!sticky(folder)) return open_to_everyone(at);
      // There, only their owners can replace files.
      if (entry.st_uid != ::geteuid() && entry.st_uid != 0)
        return Refusal{fmt::format("{} belongs to another user, and everyone may create it in {}",
                                   next.string(), at.string()),
                       "copy it to a folder of your own, or name the folder with --plugin-path"};
    }
    std::error_code error;
    const bool link = S_ISLNK(entry.st_mode);
    const fs::path target = link ? fs::read_symlink(next, error) : fs::path();
    if (error || (link && --links == 0)) return std::nullopt;
    if (!link) at = next;
    if (target.is_absolute()) at = "/";
    left.insert(left.begin(), target.begin(), target.end());
  }
  const bool open = ::stat(at.c_str(), &folder) == 0 && writable_by_everyone(folder);
  return open && !sticky(folder) ? std::optional(open_to_everyone(at)) : std::nullopt;
}

std::string sanitizer_name(const std::string& sanitizer) {
  return sanitizer == "none" ? "without a sanitizer"
                             : fmt::format("with the {} sanitizer", sanitizer);
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
    const bool newer = major_minor(entry.facts->sdk) > major_minor(own_build_facts().sdk);
    entry.manifest = parse_manifest(notes.manifest, "manifest", newer);
  } catch (const base::HostError& e) {
    // A newer ABI may have a newer kind of manifest: then the ABI is what matters.
    if (!entry.refusal) entry.refusal = Refusal{e.what(), e.hint()};
  }
  return entry;
}

/// The entries of the *.so files directly in a folder, by name.
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
    entry.refusal = Refusal{fmt::format("folder cannot be listed: {}", error.message()), ""};
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// All plugins in one folder of the search path.
std::vector<PluginEntry> read_search_path(const SearchPath& path) {
  std::vector<PluginEntry> entries = read_folder(path.folder, std::nullopt);
  for (const Kind kind : kKinds) {
    const fs::path folder = path.folder / fmt::format("{}s", to_string(kind));
    for (PluginEntry& entry : read_folder(folder, kind)) entries.push_back(std::move(entry));
  }
  for (PluginEntry& entry : entries) {
    entry.built_in = path.built_in;
    entry.given = path.given;
    if (!entry.refusal) entry.refusal = distrust(path, entry.path);
  }
  return entries;
}

/// Otherwise it has its file's name, and perhaps not even the right kind.
bool was_read(const PluginEntry& entry) {
  return !entry.manifest.version.empty();
}

bool same_plugin(const PluginEntry& a, const PluginEntry& b) {
  return a.manifest.kind == b.manifest.kind && a.manifest.name == b.manifest.name;
}

/// Whether `earlier`, from another folder, is meant where the name of both is given.
bool stands_before(const PluginEntry& earlier, const PluginEntry& later) {
  if (!earlier.refusal) return same_plugin(earlier, later);
  return earlier.given && earlier.manifest.name == later.manifest.name &&
         (!was_read(earlier) || earlier.manifest.kind == later.manifest.kind);
}

/// Of two plugins with one name in one folder, nobody can tell which is meant.
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
        &entry,
        Refusal{fmt::format("two files hold {} `{}`: {} and {}", to_string(entry.manifest.kind),
                            entry.manifest.name, entry.path.string(), other->path.string()),
                "remove one of them"});
  }
  for (auto& [entry, refusal] : refusals) entry->refusal = std::move(refusal);
}

}  // namespace

std::optional<Refusal> distrust(const SearchPath& path, const fs::path& file) {
  if (path.given) return std::nullopt;
  // Who can replace the installation can replace this program, too.
  const fs::path within = path.built_in ? path.folder : "/";
  if (auto fault = fault_on_the_way(path.named, within)) return fault;
  return fault_on_the_way(file, within);
}

std::optional<Refusal> incompatibility(const BuildFacts& plugin, const BuildFacts& host) {
  const auto plugin_abi = major_minor(plugin.abi), host_abi = major_minor(host.abi);
  const auto plugin_torch = major_minor(plugin.torch), host_torch = major_minor(host.torch);
  if (!plugin_abi || !host_abi || !plugin_torch || !host_torch) {
    return Refusal{fmt::format("built for SDK ABI {} and LibTorch {}, which are not versions",
                               plugin.abi, plugin.torch),
                   "rebuild the plugin with this host's SDK"};
  }
  const bool same_major = plugin_abi->first == host_abi->first;
  if (!same_major || plugin_abi->second > host_abi->second) {
    const std::string supported =
        host_abi->second > 0 ? fmt::format("{}.0 to {}", host_abi->first, host.abi) : host.abi;
    return Refusal{
        fmt::format("built for SDK ABI {}, but this host supports {}", plugin.abi, supported),
        same_major ? "upgrade backstop, or rebuild the plugin with this host's SDK"
                   : "rebuild the plugin with this host's SDK"};
  }
  if (*plugin_torch != *host_torch) {
    return Refusal{
        fmt::format("built for LibTorch {}, but this host uses {}", plugin.torch, host.torch),
        fmt::format("rebuild the plugin against LibTorch {}.{}", host_torch->first,
                    host_torch->second)};
  }
  const auto flag_differs = [](const std::string& flag, bool plugin_has, bool host_has) {
    return Refusal{fmt::format("built with {}={:d}, but this host with {}={:d}", flag, plugin_has,
                               flag, host_has),
                   fmt::format("rebuild the plugin with -D{}={:d}", flag, host_has)};
  };
  if (plugin.cxx11_abi != host.cxx11_abi) {
    return flag_differs("_GLIBCXX_USE_CXX11_ABI", plugin.cxx11_abi, host.cxx11_abi);
  }
  if (plugin.glibcxx_debug != host.glibcxx_debug) {
    const auto with = [](bool debug) { return debug ? "with" : "without"; };
    return Refusal{fmt::format("built {} _GLIBCXX_DEBUG, but this host {} it",
                               with(plugin.glibcxx_debug), with(host.glibcxx_debug)),
                   fmt::format("rebuild the plugin {} -D_GLIBCXX_DEBUG", with(host.glibcxx_debug))};
  }
  if (plugin.sanitizer != host.sanitizer) {
    return Refusal{fmt::format("built {}, but this host {}", sanitizer_name(plugin.sanitizer),
                               sanitizer_name(host.sanitizer)),
                   fmt::format("rebuild the plugin {}", sanitizer_name(host.sanitizer))};
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
                            fmt::format("BACKSTOP_PLUGIN_PATH is `{}`: its element `{}` is not an "
                                        "absolute path",
                                        elements, folder.string()),
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
    if (path.named.empty()) path.named = path.folder;
    std::error_code error;
    const fs::path real = fs::canonical(path.folder, error);
    if (!error) path.folder = real;  // otherwise listing it says why not
    if (!seen.insert(path.folder).second) continue;
    std::vector<PluginEntry> entries = read_search_path(path);
    refuse_namesakes(entries);
    if (path.given && entries.empty()) catalog.without_plugins_.push_back(path.named);
    const std::size_t earlier = catalog.entries_.size();
    for (PluginEntry& entry : entries) {
      const auto end = catalog.entries_.begin() + static_cast<std::ptrdiff_t>(earlier);
      entry.shadowed = !entry.refusal &&
                       std::any_of(catalog.entries_.begin(), end, [&](const PluginEntry& other) {
                         return stands_before(other, entry);
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
  const std::string what = fmt::format("{} `{}`", to_string(kind), name);
  for (const PluginEntry& entry : entries_) {
    if (entry.refusal && entry.manifest.name == name &&
        (!was_read(entry) || entry.manifest.kind == kind)) {
      throw base::HostError(base::ExitCode::plugin,
                            fmt::format("{} cannot be used: {}: {}", what, entry.path.string(),
                                        entry.refusal->message),
                            entry.refusal->hint);
    }
  }
  throw base::HostError(base::ExitCode::plugin, fmt::format("there is no {}", what),
                        hint_for_unknown(kind, name, "`backstop list` shows all plugins"));
}

std::string Catalog::hint_for_unknown(Kind kind, std::string_view name,
                                      const std::string& otherwise) const {
  if (const auto near = base::nearest(name, names(kind)))
    return fmt::format("did you mean `{}`?", *near);
  if (!without_plugins_.empty())
    return fmt::format(
        "`--plugin-path {}` holds no plugin, neither itself nor in its subfolders `attacks`, "
        "`defenses`, `schedulers` and `datasets`",
        without_plugins_.front().string());
  return otherwise;
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
