// The networks that can be made, by name. host/schema/architectures.cpp says what each of them
// offers, where LibTorch is not needed.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "host/engine/model/network.hpp"

namespace backstop::engine {

struct RegisteredNetwork {
  std::string_view name;
  std::shared_ptr<Network> (*make)(const Architecture& architecture);
};

std::span<const RegisteredNetwork> registered_networks();

/// The network that `architecture` names, with LibTorch's own initial weights; see reset_weights.
/// The global generator stays as it was. Throws HostError(usage) if no network has that name.
std::shared_ptr<Network> make_network(const Architecture& architecture);

/// The number of its parameters, without making a network of that width. Throws HostError(usage).
double parameters_of(const Architecture& architecture);

}  // namespace backstop::engine
