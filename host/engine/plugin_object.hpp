// Plugins' objects: made with the recipe's parameters, called so that their mistakes do not look
// like ours.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <toml++/toml.h>

#include "backstop/params.hpp"
#include "host/catalog/catalog.hpp"
#include "host/catalog/library.hpp"
#include "host/error.hpp"

namespace backstop::host {

/// Turns the exception that is being handled into HostError, or Cancelled, and throws it: `plugin`
/// did not survive `call`.
[[noreturn]] void rethrow_as_host_error(const PluginEntry& plugin, std::string_view call);

/// Puts LibTorch's global state back as it was when it is destroyed; reports what had been changed.
class TorchStateGuard {
 public:
  using Report = void (*)(void* user, const std::string& message);
  TorchStateGuard(const PluginEntry& plugin, Report report, void* user);
  ~TorchStateGuard();
  TorchStateGuard(const TorchStateGuard&) = delete;
  TorchStateGuard& operator=(const TorchStateGuard&) = delete;

 private:
  struct State;
  std::unique_ptr<State> before_;
  const PluginEntry& plugin_;
  Report report_;
  void* user_;
};

/// Calls `function`, on behalf of `plugin`, under a TorchStateGuard.
template <typename Function>
decltype(auto) call_plugin(const PluginEntry& plugin, std::string_view call,
                           TorchStateGuard::Report report, void* user, Function&& function) {
  const TorchStateGuard guard(plugin, report, user);
  try {
    return std::forward<Function>(function)();
  } catch (...) {
    rethrow_as_host_error(plugin, call);
  }
}

class RecipeParams;

/// One object of a plugin. Destroyed through the plugin; the library stays loaded.
class PluginObject {
 public:
  /// Makes the object of `kind`'s plugin that `table["plugin"]` names, with the table's parameters.
  /// Throws HostError.
  PluginObject(const Catalog& catalog, Kind kind, const toml::table& table);
  ~PluginObject();
  PluginObject(PluginObject&&) noexcept;
  PluginObject& operator=(PluginObject&&) = delete;

  [[nodiscard]] const PluginEntry& entry() const { return *entry_; }
  template <typename Interface>
  [[nodiscard]] Interface& as() const {
    return *static_cast<Interface*>(object_);
  }

 private:
  const PluginEntry* entry_;
  const backstop_plugin_descriptor* descriptor_;
  std::unique_ptr<RecipeParams> params_;  ///< outlives the object
  void* object_ = nullptr;
};

/// The parameters of a resolved recipe's table.
class RecipeParams final : public Params {
 public:
  RecipeParams(const Catalog& catalog, const Manifest& manifest, const toml::table& table);

  bool has(std::string_view key) const override;
  bool boolean(std::string_view key) const override;
  std::int64_t integer(std::string_view key) const override;
  double number(std::string_view key) const override;
  std::string_view string(std::string_view key) const override;
  std::span<const std::int64_t> integers(std::string_view key) const override;
  std::span<const double> numbers(std::string_view key) const override;
  std::span<const std::string_view> strings(std::string_view key) const override;
  const Scheduler& scheduler(std::string_view key) const override;
  OptimizerOptions optimizer(std::string_view key) const override;

 private:
  template <typename T>
  T value(std::string_view key, const char* type) const;

  toml::table table_;
  std::string plugin_;
  std::map<std::string, std::vector<std::int64_t>, std::less<>> integers_;
  std::map<std::string, std::vector<double>, std::less<>> numbers_;
  std::map<std::string, std::vector<std::string_view>, std::less<>> strings_;
  std::map<std::string, PluginObject, std::less<>> schedulers_;
};

/// `{ name = "sgd", ... }` of a resolved recipe.
OptimizerOptions optimizer_options(const toml::table& table);

}  // namespace backstop::host
