#include "host/engine/plugins/plugin_object.hpp"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <new>

#include <unistd.h>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backstop/error.hpp"
#include "host/base/text.hpp"
#include "host/engine/engine.hpp"
#include "host/engine/plugins/process_state.hpp"
#include "host/engine/plugins/torch_state.hpp"
#include "host/recipe/typed.hpp"

namespace backstop::engine {

namespace {

std::string name_of(const catalog::PluginEntry& plugin) {
  return fmt::format("{} `{}`", to_string(plugin.manifest.kind), plugin.manifest.name);
}

/// An error with words of the plugin's, which may be any bytes.
[[noreturn]] void throw_error(base::ExitCode code, const std::string& message,
                              const std::string& hint) {
  throw base::HostError(code, base::valid_utf8(message), base::valid_utf8(hint));
}

[[noreturn]] void plugin_failed(const catalog::PluginEntry& plugin, std::string_view call,
                                const std::string& message, const std::string& hint = {}) {
  throw_error(base::ExitCode::plugin,
              fmt::format("{} failed in {}: {}", name_of(plugin), call, message),
              !hint.empty() ? hint
              : plugin.manifest.authors.empty()
                  ? fmt::format("report it to the author of the plugin, {}", plugin.path.string())
                  : fmt::format("report it to {}; the plugin is {}",
                                fmt::join(plugin.manifest.authors, ", "), plugin.path.string()));
}

/// Throws HostError(environment) if the message says that there was not enough memory.
void throw_if_out_of_memory(const catalog::PluginEntry& plugin, std::string_view call,
                            std::string_view message) {
  const auto asked = out_of_memory(message);
  if (!asked && message != std::bad_alloc().what()) return;
  throw base::HostError(base::ExitCode::environment,
                        fmt::format("{} ran out of memory in {}{}", name_of(plugin), call,
                                    asked ? ": " + *asked : ""),
                        "a smaller batch_size, width or dataset needs less memory");
}

/// What to do about an error of LibTorch that does not say it; empty where there is nothing to add.
std::string hint_for(std::string_view message) {
  if (message.find("a leaf Variable that requires grad") != std::string_view::npos)
    return "write to weights under an at::NoGradGuard";
  return {};
}

/// "defense `probe` in run"; null outside of all plugins.
std::atomic<const char*> current_call{nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* backstop_engine_plugin_call() {
  return current_call;
}

void rethrow_as_host_error(const catalog::PluginEntry& plugin, std::string_view call) {
  try {
    throw;
  } catch (const base::HostError&) {
    throw;
  } catch (const Cancelled&) {
    throw;
  } catch (const ParameterError& e) {
    throw_error(base::ExitCode::usage, name_of(plugin) + ": " + e.what(), e.hint());
  } catch (const EnvironmentError& e) {
    throw_error(base::ExitCode::environment, name_of(plugin) + ": " + e.what(), e.hint());
  } catch (const Error& e) {
    plugin_failed(plugin, call, e.what(), e.hint());
  } catch (const c10::Error& e) {
    const std::string message = e.what_without_backtrace();
    throw_if_out_of_memory(plugin, call, message);
    plugin_failed(plugin, call, message, hint_for(message));
  } catch (const std::exception& e) {
    throw_if_out_of_memory(plugin, call, e.what());
    plugin_failed(plugin, call, e.what());
  } catch (...) {
    plugin_failed(plugin, call, "it threw something that is not a std::exception");
  }
}

PluginCall::PluginCall(const catalog::PluginEntry& plugin, std::string_view call)
    : text_(fmt::format("{} in {}", name_of(plugin), call)),
      outer_(current_call.exchange(text_.c_str())) {}

PluginCall::~PluginCall() {
  current_call = outer_;
}

GuardedCall::GuardedCall(const catalog::PluginEntry& plugin, std::string_view call,
                         const WarningSink& warnings)
    : call_(plugin, call),
      process_(::getpid()),
      torch_before_(std::make_unique<TorchState>(TorchState::now())),
      process_before_(std::make_unique<ProcessState>(ProcessState::now())),
      plugin_(plugin),
      warnings_(warnings) {}

GuardedCall::~GuardedCall() {
  // The plugin has forked and returned twice: the run must not go on twice.
  if (::getpid() != process_) ::_exit(EXIT_FAILURE);
  auto changed = torch_before_->differences(TorchState::now());
  if (!changed.empty()) torch_before_->restore();
  const auto of_process = process_before_->differences(ProcessState::now());
  if (!of_process.empty()) process_before_->restore();
  changed.insert(changed.end(), of_process.begin(), of_process.end());
  if (!changed.empty())
    warnings_.warn(
        fmt::format("{} left changed: {}; restored", name_of(plugin_), fmt::join(changed, ", ")));
}

double GuardedScheduler::rate(const TrainingPosition& position) const {
  // Plugins may ask on several threads, and one scheduler another; the guard is for one at a time.
  static std::recursive_mutex mutex;
  const std::lock_guard lock(mutex);
  const TrainingPosition known = known_fields(position);
  const double rate = call_plugin(plugin_->entry(), "rate", warnings_,
                                  [&] { return plugin_->as<Scheduler>().rate(known); });
  if (std::isfinite(rate) && rate >= 0) return rate;
  plugin_failed(plugin_->entry(), "rate",
                fmt::format("it returned a learning rate of {} at iteration {}, but a rate must be "
                            "finite and not negative",
                            rate, position.iteration));
}

PluginObject::PluginObject(const recipe::PluginUse& use, const WarningSink& warnings)
    : entry_(use.plugin) {
  // The library's static constructors are the plugin's code too.
  const GuardedCall guard(*entry_, "create", warnings);
  descriptor_ = &catalog::load_library(*entry_);
  params_ = std::make_unique<RecipeParams>(use, warnings);
  backstop_error error{};
  error.struct_size = sizeof error;
  const Params* params = params_.get();
  const std::int32_t code = descriptor_->create(params, &object_, &error);
  if (code == BACKSTOP_OK && object_ != nullptr) return;
  error.message[sizeof error.message - 1] = '\0';
  error.hint[sizeof error.hint - 1] = '\0';
  if (code == BACKSTOP_ERROR_PARAMETER)
    throw_error(base::ExitCode::usage, name_of(*entry_) + ": " + error.message, error.hint);
  if (code == BACKSTOP_ERROR_ENVIRONMENT)
    throw_error(base::ExitCode::environment, name_of(*entry_) + ": " + error.message, error.hint);
  if (code == BACKSTOP_ERROR_CANCELLED) throw Cancelled();
  throw_if_out_of_memory(*entry_, "create", error.message);
  plugin_failed(*entry_, "create", error.message[0] != '\0' ? error.message : "it gave no reason",
                error.hint);
}

PluginObject::~PluginObject() {
  if (object_ == nullptr) return;
  const PluginCall call(*entry_, "destroy");
  descriptor_->destroy(object_);
}

PluginObject::PluginObject(PluginObject&& other) noexcept
    : entry_(other.entry_),
      descriptor_(other.descriptor_),
      params_(std::move(other.params_)),
      object_(std::exchange(other.object_, nullptr)) {}

RecipeParams::RecipeParams(const recipe::PluginUse& use, const WarningSink& warnings)
    : table_(use.parameters), manifest_(&use.plugin->manifest) {
  for (const auto& scheduler : use.schedulers)
    schedulers_.try_emplace(scheduler.key, PluginObject(scheduler, warnings), warnings);
  for (const schema::Parameter& parameter : use.plugin->manifest.parameters) {
    const toml::node* node = table_.get(parameter.key);
    if (node == nullptr || !parameter.list) continue;
    for (const toml::node& item : *node->as_array()) {
      if (item.is_integer()) integers_[parameter.key].push_back(*item.value<std::int64_t>());
      if (item.is_number()) numbers_[parameter.key].push_back(*item.value<double>());
      if (item.is_string()) strings_[parameter.key].push_back(*item.value<std::string_view>());
    }
  }
}

const schema::Parameter& RecipeParams::described(std::string_view key) const {
  std::vector<std::string> keys;
  for (const schema::Parameter& parameter : manifest_->parameters) {
    if (parameter.key == key) return parameter;
    keys.push_back(parameter.key);
  }
  const auto near = base::nearest(key, keys);
  throw Error(fmt::format("`{}` asks for a parameter `{}`, which its manifest does not have",
                          manifest_->name, key),
              near ? fmt::format("did you mean `{}`?", *near) : "");
}

void RecipeParams::require(std::string_view key, schema::ParameterType type, bool list) const {
  const schema::Parameter& found = described(key);
  const auto name_of_type = [](schema::ParameterType a_type, bool a_list) {
    const auto& names = schema::parameter_type_names();
    return fmt::format("{}{}", a_list ? "list of " : "", names[static_cast<std::size_t>(a_type)]);
  };
  using enum schema::ParameterType;
  const bool text = found.type == choice || found.type == path;
  if ((found.type != type && !(type == string && text)) || found.list != list)
    throw Error(fmt::format("`{}` asks for its parameter `{}` as {}, but its manifest says {}",
                            manifest_->name, key, name_of_type(type, list),
                            name_of_type(found.type, found.list)));
  if (list && !table_.contains(key)) left_out(key);  // an empty list is there
}

void RecipeParams::left_out(std::string_view key) const {
  throw Error(fmt::format("`{}` asks for the parameter `{}`, which the recipe leaves out",
                          manifest_->name, key),
              "ask Params::has() first");
}

template <typename T>
T RecipeParams::value(std::string_view key, schema::ParameterType type) const {
  require(key, type);
  if (const auto value = table_[key].value<T>()) return *value;
  left_out(key);
}

bool RecipeParams::has(std::string_view key) const {
  described(key);
  return table_.contains(key);
}
bool RecipeParams::boolean(std::string_view key) const {
  return value<bool>(key, schema::ParameterType::boolean);
}
std::int64_t RecipeParams::integer(std::string_view key) const {
  return value<std::int64_t>(key, schema::ParameterType::integer);
}
double RecipeParams::number(std::string_view key) const {
  return value<double>(key, schema::ParameterType::floating);
}
std::string_view RecipeParams::string(std::string_view key) const {
  return value<std::string_view>(key, schema::ParameterType::string);
}

namespace {

template <typename Map>
auto find_list(const Map& lists, std::string_view key) {
  const auto found = lists.find(key);
  using List = std::span<const typename Map::mapped_type::value_type>;
  return found == lists.end() ? List() : List(found->second);
}

}  // namespace

std::span<const std::int64_t> RecipeParams::integers(std::string_view key) const {
  require(key, schema::ParameterType::integer, /*list=*/true);
  return find_list(integers_, key);
}
std::span<const double> RecipeParams::numbers(std::string_view key) const {
  require(key, schema::ParameterType::floating, /*list=*/true);
  return find_list(numbers_, key);
}
std::span<const std::string_view> RecipeParams::strings(std::string_view key) const {
  require(key, schema::ParameterType::string, /*list=*/true);
  return find_list(strings_, key);
}

const Scheduler& RecipeParams::scheduler(std::string_view key) const {
  require(key, schema::ParameterType::scheduler);
  const auto found = schedulers_.find(key);
  if (found == schedulers_.end()) left_out(key);
  return found->second;
}

void RecipeParams::read_optimizer(std::string_view key, OptimizerOptions& options) const {
  require(key, schema::ParameterType::optimizer);
  const auto* table = table_[key].as_table();
  if (table == nullptr) left_out(key);
  set_optimizer(recipe::optimizer_use(*table), options);
}

void set_optimizer(const recipe::OptimizerUse& optimizer, OptimizerOptions& options) {
  options.kind = optimizer.name == "adam"    ? OptimizerKind::adam
                 : optimizer.name == "adamw" ? OptimizerKind::adamw
                                             : OptimizerKind::sgd;
  options.momentum = optimizer.momentum;
  options.weight_decay = optimizer.weight_decay;
  options.beta1 = optimizer.beta1;
  options.beta2 = optimizer.beta2;
  options.epsilon = optimizer.epsilon;
  options.nesterov = optimizer.nesterov ? 1 : 0;
}

}  // namespace backstop::engine
