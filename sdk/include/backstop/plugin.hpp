// BACKSTOP_PLUGIN(Interface, Class) turns a library into a plugin. Use it once, at the end of the
// plugin's source file, outside any namespace:
//
//   namespace {
//   class Constant final : public backstop::Scheduler {
//    public:
//     explicit Constant(const backstop::Params& params) : rate_(params.number("rate")) {}
//     double rate(const backstop::TrainingPosition&) const override { return rate_; }
//    private:
//     double rate_;
//   };
//   }  // namespace
//   BACKSTOP_PLUGIN(Scheduler, Constant)
//
// The other part of a plugin is its manifest, NAME.toml, which backstop_add_plugin() embeds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string_view>

#include "backstop/abi.h"
#include "backstop/error.hpp"
#include "backstop/params.hpp"

namespace backstop {
inline namespace v1 {

class Attack;
class Defense;
class Dataset;

namespace detail {

template <typename Interface>
inline constexpr std::uint32_t kKind = 0;
template <>
inline constexpr std::uint32_t kKind<Attack> = BACKSTOP_KIND_ATTACK;
template <>
inline constexpr std::uint32_t kKind<Defense> = BACKSTOP_KIND_DEFENSE;
template <>
inline constexpr std::uint32_t kKind<Scheduler> = BACKSTOP_KIND_SCHEDULER;
template <>
inline constexpr std::uint32_t kKind<Dataset> = BACKSTOP_KIND_DATASET;

inline void copy_text(std::string_view text, char* to, std::size_t capacity) noexcept {
  const std::size_t length = text.copy(to, capacity - 1);
  to[length] = '\0';
}

inline std::int32_t fail(backstop_error* error, std::int32_t code, std::string_view message,
                         std::string_view hint = {}) noexcept {
  error->code = code;
  copy_text(message, error->message, sizeof error->message);
  copy_text(hint, error->hint, sizeof error->hint);
  return code;
}

template <typename Interface, typename Plugin>
std::int32_t create(const void* params, void** object, backstop_error* error) noexcept {
  try {
    Interface* plugin = new Plugin(*static_cast<const Params*>(params));
    *object = plugin;
    return BACKSTOP_OK;
  } catch (const Cancelled& e) {
    return fail(error, BACKSTOP_ERROR_CANCELLED, e.what());
  } catch (const ParameterError& e) {
    return fail(error, BACKSTOP_ERROR_PARAMETER, e.what(), e.hint());
  } catch (const EnvironmentError& e) {
    return fail(error, BACKSTOP_ERROR_ENVIRONMENT, e.what(), e.hint());
  } catch (const Error& e) {
    return fail(error, BACKSTOP_ERROR_PLUGIN, e.what(), e.hint());
  } catch (const std::exception& e) {
    return fail(error, BACKSTOP_ERROR_PLUGIN, e.what());
  } catch (...) {
    return fail(error, BACKSTOP_ERROR_PLUGIN, "threw something that is not a std::exception");
  }
}

template <typename Interface, typename Plugin>
void destroy(void* object) noexcept {
  delete static_cast<Plugin*>(static_cast<Interface*>(object));
}

}  // namespace detail
}  // namespace v1
}  // namespace backstop

// NOLINTNEXTLINE(cppcoreguidelines-macro-usage): the one exported symbol needs a fixed name
#define BACKSTOP_PLUGIN(Interface, Class)                                             \
  extern "C" __attribute__((visibility("default"))) const backstop_plugin_descriptor* \
  backstop_plugin_v1() {                                                              \
    static constexpr backstop_plugin_descriptor descriptor = {                        \
        sizeof(backstop_plugin_descriptor),                                           \
        BACKSTOP_PLUGIN_MAGIC,                                                        \
        BACKSTOP_ABI_MAJOR,                                                           \
        BACKSTOP_TARGET_ABI_MINOR,                                                    \
        ::backstop::detail::kKind<::backstop::Interface>,                             \
        &::backstop::detail::create<::backstop::Interface, Class>,                    \
        &::backstop::detail::destroy<::backstop::Interface, Class>};                  \
    return &descriptor;                                                               \
  }
