// A run's dataset: loaded through its plugin, checked, and reduced to what the recipe asks for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/engine/image_store.hpp"
#include "host/engine/plugin_object.hpp"
#include "host/engine/stage_context.hpp"

namespace backstop::host {

struct Data {
  ImageStore train, test;
  Normalisation normalisation;
  std::vector<std::string> class_names;
  std::string fingerprint;  ///< SHA-256 of all images and labels, before `limit`
};

/// `table` is the resolved recipe's `[dataset]`; `limit` and `test_limit` draw from `seed`. Throws
/// HostError, also when the plugin returns what the interface does not allow.
Data load_data(const PluginObject& plugin, const toml::table& table, std::int64_t seed,
               StageContext& ctx, c10::Device device);

/// A seed of its own for every purpose: SHA-256 of the recipe's seed and the purpose.
std::uint64_t seed_for(std::int64_t seed, const std::string& purpose);

}  // namespace backstop::host
