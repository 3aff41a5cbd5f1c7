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
#include "host/base/error.hpp"
#include "host/catalog/catalog.hpp"
#include "host/catalog/library.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::engine {

/// Turns the exception that is being handled into HostError, or Cancelled, and throws it: `plugin`
/// did not survive `call`.
[[noreturn]] void rethrow_as_host_error(const catalog::PluginEntry& plugin, std::string_view call);

/// Where it is said what a plugin left changed; `user` is passed on.
struct Complaints {
  void (*report)(void* user, const std::string& message);
  void* user;
  void say(const std::string& message) const { report(user, message); }
};

class TorchState;

/// Puts all global state back as it was when it is destroyed; says what had been changed.
class TorchStateGuard {
 public:
  TorchStateGuard(const catalog::PluginEntry& plugin, const Complaints& complaints);
  ~TorchStateGuard();
  TorchStateGuard(const TorchStateGuard&) = delete;
  TorchStateGuard& operator=(const TorchStateGuard&) = delete;

 private:
  std::unique_ptr<TorchState> before_;
  const catalog::PluginEntry& plugin_;
  Complaints complaints_;
};

/// Calls `function`, on behalf of `plugin`, under a TorchStateGuard.
template <typename Function>
decltype(auto) call_plugin(const catalog::PluginEntry& plugin, std::string_view call,
                           const Complaints& complaints, Function&& function) {
  const TorchStateGuard guard(plugin, complaints);
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
  /// Makes the plugin's object with the parameters that it is used with. Throws HostError.
  PluginObject(const recipe::PluginUse& use, const Complaints& complaints);
  ~PluginObject();
  PluginObject(PluginObject&&) noexcept;
  PluginObject& operator=(PluginObject&&) = delete;

  [[nodiscard]] const catalog::PluginEntry& entry() const { return *entry_; }
  template <typename Interface>
  [[nodiscard]] Interface& as() const {
    return *static_cast<Interface*>(object_);
  }

 private:
  const catalog::PluginEntry* entry_;
  const backstop_plugin_descriptor* descriptor_ = nullptr;
  std::unique_ptr<RecipeParams> params_;  ///< outlives the object
  void* object_ = nullptr;
};

/// A scheduler's plugin, called so that what goes wrong is said to be its own.
class GuardedScheduler final : public Scheduler {
 public:
  GuardedScheduler(PluginObject plugin, const Complaints& complaints)
      : plugin_(std::make_unique<PluginObject>(std::move(plugin))), complaints_(complaints) {}
  double rate(const TrainingPosition& position) const override;
  void* query(std::string_view id) noexcept override { return plugin_->as<Scheduler>().query(id); }

 private:
  std::unique_ptr<PluginObject> plugin_;
  Complaints complaints_;
};

/// The parameters of a resolved recipe's table.
class RecipeParams final : public Params {
 public:
  RecipeParams(const recipe::PluginUse& use, const Complaints& complaints);

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
  std::map<std::string, GuardedScheduler, std::less<>> schedulers_;
};

OptimizerOptions optimizer_options(const recipe::OptimizerUse& optimizer);

}  // namespace backstop::engine
