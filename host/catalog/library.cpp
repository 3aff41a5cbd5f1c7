#include "host/catalog/library.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>  // shared_library.hpp forgets it

#include <dlfcn.h>

#include <boost/dll/shared_library.hpp>
#include <fmt/format.h>

#include "host/base/error.hpp"

namespace backstop::catalog {
namespace {

using boost::dll::shared_library;

constexpr const char* kRebuild = "rebuild the plugin with the SDK of this host";

struct Loaded {
  shared_library library;
  const backstop_plugin_descriptor* descriptor = nullptr;
};

[[noreturn]] void refuse(const PluginEntry& entry, const std::string& why,
                         const std::string& hint = kRebuild) {
  throw base::HostError(base::ExitCode::plugin,
                        fmt::format("cannot load {}: {}", entry.path.string(), why), hint);
}

/// The dynamic linker's own message, without what Boost.DLL wraps around it.
std::string linker_message(const std::system_error& error, const std::filesystem::path& path) {
  std::string text = error.what();
  constexpr std::string_view kOpening = "dlerror system message: ";
  const std::size_t begin = text.find(kOpening);
  const std::size_t end = text.rfind(')');
  if (begin == std::string::npos || end == std::string::npos) return text;
  text = text.substr(begin + kOpening.size(), end - begin - kOpening.size());
  const std::string prefix = path.string() + ": ";
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

shared_library open(const PluginEntry& entry) {
  // A missing symbol must be found now, not in the middle of a run; and no tensor, deleter or
  // autograd node that the plugin made may outlive its code.
  const auto mode =
      static_cast<boost::dll::load_mode::type>(RTLD_NODELETE) | boost::dll::load_mode::rtld_now;
  try {
    return shared_library(entry.path, mode);
  } catch (const std::system_error& e) {
    refuse(entry, linker_message(e, entry.path));
  }
}

std::uint32_t descriptor_kind(Kind kind) {
  switch (kind) {
    case Kind::attack:
      return BACKSTOP_KIND_ATTACK;
    case Kind::defense:
      return BACKSTOP_KIND_DEFENSE;
    case Kind::scheduler:
      return BACKSTOP_KIND_SCHEDULER;
    case Kind::dataset:
      return BACKSTOP_KIND_DATASET;
  }
  throw base::HostError(base::ExitCode::bug, "no such kind of plugin");
}

/// The name of a descriptor's kind, which may be any number.
std::string kind_text(std::uint32_t number) {
  for (const Kind kind : kKinds)
    if (descriptor_kind(kind) == number) return fmt::format("of kind `{}`", to_string(kind));
  return fmt::format("of kind {}, which does not exist", number);
}

void check(const PluginEntry& entry, const backstop_plugin_descriptor* descriptor) {
  if (descriptor == nullptr)
    refuse(entry, fmt::format("{}() returns a null pointer", kPluginEntry));
  if (descriptor->magic != BACKSTOP_PLUGIN_MAGIC) {
    refuse(entry, fmt::format("its descriptor's magic number is {}, expected {}", descriptor->magic,
                              BACKSTOP_PLUGIN_MAGIC));
  }
  constexpr std::uint32_t kFirstSize = 32;  // in ABI 1.0
  if (descriptor->struct_size < kFirstSize) {
    refuse(entry, fmt::format("its descriptor is {} bytes long, expected at least {}",
                              descriptor->struct_size, kFirstSize));
  }
  const std::string abi = fmt::format("{}.{}", descriptor->abi_major, descriptor->abi_minor);
  if (entry.facts && abi != entry.facts->abi) {
    refuse(entry,
           fmt::format("its descriptor says ABI {}, but its note says {}", abi, entry.facts->abi),
           "remove the plugin's build folder and build it again");
  }
  if (const auto kind = descriptor_kind(entry.manifest.kind); descriptor->kind != kind) {
    refuse(entry,
           fmt::format("its code is {}, but its manifest says `{}`", kind_text(descriptor->kind),
                       to_string(entry.manifest.kind)),
           "make the first argument of BACKSTOP_PLUGIN and the manifest's `kind` agree");
  }
  if (descriptor->create == nullptr) refuse(entry, "its descriptor has no `create`");
  if (descriptor->destroy == nullptr) refuse(entry, "its descriptor has no `destroy`");
}

}  // namespace

const backstop_plugin_descriptor& load_library(const PluginEntry& entry) {
  // Leaked: closing libraries while the process ends would pull code from under live tensors.
  static auto& registry = *new std::map<std::filesystem::path, Loaded>;
  static std::mutex mutex;

  if (entry.refusal) refuse(entry, entry.refusal->message, entry.refusal->hint);
  if (!entry.path.is_absolute()) {
    throw base::HostError(base::ExitCode::bug,
                          fmt::format("the path of plugin `{}` is {}, which is not absolute",
                                      entry.manifest.name, entry.path.string()));
  }
  const std::lock_guard lock(mutex);
  Loaded& loaded = registry[entry.path];
  if (!loaded.library.is_loaded()) loaded.library = open(entry);
  if (loaded.descriptor == nullptr) {
    if (!loaded.library.has(kPluginEntry)) {
      refuse(entry, fmt::format("it does not export {}", kPluginEntry),
             "end the plugin's source with BACKSTOP_PLUGIN(Interface, Class)");
    }
    const backstop_plugin_descriptor* descriptor =
        loaded.library.get<const backstop_plugin_descriptor*()>(kPluginEntry)();
    check(entry, descriptor);
    loaded.descriptor = descriptor;
  }
  return *loaded.descriptor;
}

}  // namespace backstop::catalog
