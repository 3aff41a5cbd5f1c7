// The objects of plugins: created with the recipe's parameters, and called so that their errors name
// the plugin.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/types.h>
#include <toml++/toml.h>

#include "backstop/params.hpp"
#include "host/base/error.hpp"
#include "host/catalog/catalog.hpp"
#include "host/catalog/library.hpp"
#include "host/recipe/recipe.hpp"

namespace backstop::engine {

/// Throws the exception that is being handled as HostError or Cancelled: it came out of `call` of
/// `plugin`.
[[noreturn]] void rethrow_as_host_error(const catalog::PluginEntry& plugin, std::string_view call);

/// Receives the warnings about what a plugin left changed; `user` is passed on.
struct WarningSink {
  void (*report)(void* user, const std::string& message);
  void* user;
  void warn(const std::string& message) const { report(user, message); }
};

/// While it lives, it is known that the process is in `call` of `plugin`: see kEnginePluginCall.
class PluginCall {
 public:
  PluginCall(const catalog::PluginEntry& plugin, std::string_view call);
  ~PluginCall();
  PluginCall(const PluginCall&) = delete;
  PluginCall& operator=(const PluginCall&) = delete;

 private:
  std::string text_;
  const char* outer_;
};

class ProcessState;
class TorchState;

/// A call of `plugin`. When it is over, all global state is restored, with a warning of what had
/// been changed.
class GuardedCall {
 public:
  GuardedCall(const catalog::PluginEntry& plugin, std::string_view call,
              const WarningSink& warnings);
  ~GuardedCall();
  GuardedCall(const GuardedCall&) = delete;
  GuardedCall& operator=(const GuardedCall&) = delete;

 private:
  PluginCall call_;
  pid_t process_;
  std::unique_ptr<TorchState> torch_before_;
  std::unique_ptr<ProcessState> process_before_;
  const catalog::PluginEntry& plugin_;
  WarningSink warnings_;
};

/// Calls `function`, on behalf of `plugin`, as a GuardedCall.
template <typename Function>
decltype(auto) call_plugin(const catalog::PluginEntry& plugin, std::string_view call,
                           const WarningSink& warnings, Function&& function) {
  const GuardedCall guard(plugin, call, warnings);
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
  PluginObject(const recipe::PluginUse& use, const WarningSink& warnings);
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

/// A scheduler plugin whose errors name the plugin.
class GuardedScheduler final : public Scheduler {
 public:
  GuardedScheduler(PluginObject plugin, const WarningSink& warnings)
      : plugin_(std::make_unique<PluginObject>(std::move(plugin))), warnings_(warnings) {}
  double rate(const TrainingPosition& position) const override;
  const void* query(std::string_view id) const noexcept override {
    return plugin_->as<Scheduler>().query(id);
  }

 private:
  std::unique_ptr<PluginObject> plugin_;
  WarningSink warnings_;
};

/// The parameters of a resolved recipe's table.
class RecipeParams final : public Params {
 public:
  RecipeParams(const recipe::PluginUse& use, const WarningSink& warnings);

  bool has(std::string_view key) const override;
  bool boolean(std::string_view key) const override;
  std::int64_t integer(std::string_view key) const override;
  double number(std::string_view key) const override;
  std::string_view string(std::string_view key) const override;
  std::span<const std::int64_t> integers(std::string_view key) const override;
  std::span<const double> numbers(std::string_view key) const override;
  std::span<const std::string_view> strings(std::string_view key) const override;
  const Scheduler& scheduler(std::string_view key) const override;
  void read_optimizer(std::string_view key, OptimizerOptions& options) const override;

 private:
  /// The manifest's parameter; throws Error if there is none.
  const schema::Parameter& described(std::string_view key) const;
  /// Throws Error unless the manifest has a parameter `key` of this type, and the recipe the list.
  void require(std::string_view key, schema::ParameterType type, bool list = false) const;
  [[noreturn]] void left_out(std::string_view key) const;
  template <typename T>
  T value(std::string_view key, schema::ParameterType type) const;

  toml::table table_;
  const catalog::Manifest* manifest_;
  std::map<std::string, std::vector<std::int64_t>, std::less<>> integers_;
  std::map<std::string, std::vector<double>, std::less<>> numbers_;
  std::map<std::string, std::vector<std::string_view>, std::less<>> strings_;
  std::map<std::string, GuardedScheduler, std::less<>> schedulers_;
};

/// A structure from a plugin: one that was built with an older SDK knows fewer fields, and the others
/// keep their defaults.
template <typename Structure>
Structure known_fields(const Structure& given) {
  Structure known;
  std::memcpy(static_cast<void*>(&known), static_cast<const void*>(&given),
              std::min<std::size_t>(given.struct_size, sizeof known));
  known.struct_size = sizeof known;
  return known;
}

/// Fills in the fields of `options` that its struct_size has.
void set_optimizer(const recipe::OptimizerUse& optimizer, OptimizerOptions& options);

}  // namespace backstop::engine
