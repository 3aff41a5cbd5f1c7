#include "host/engine/model/registry.hpp"

#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "host/base/error.hpp"
#include "host/engine/plugins/torch_state.hpp"

namespace backstop::engine {

// Each is defined in the file of its name, make_resnet for all networks of resnet.cpp.
std::shared_ptr<Network> make_preact_resnet18(const Architecture& architecture);
std::shared_ptr<Network> make_resnet(const Architecture& architecture);
std::shared_ptr<Network> make_small_cnn(const Architecture& architecture);
std::shared_ptr<Network> make_mlp(const Architecture& architecture);

std::span<const RegisteredNetwork> registered_networks() {
  static constexpr RegisteredNetwork kNetworks[] = {
      {"preact-resnet18", make_preact_resnet18},
      {"resnet18", make_resnet},
      {"resnet34", make_resnet},
      {"resnet50", make_resnet},
      {"resnet18-7x7", make_resnet},
      {"resnet34-7x7", make_resnet},
      {"resnet50-7x7", make_resnet},
      {"resnet20", make_resnet},
      {"resnet32", make_resnet},
      {"resnet44", make_resnet},
      {"resnet56", make_resnet},
      {"resnet110", make_resnet},
      {"resnet20-b", make_resnet},
      {"resnet32-b", make_resnet},
      {"resnet44-b", make_resnet},
      {"resnet56-b", make_resnet},
      {"resnet110-b", make_resnet},
      {"small-cnn", make_small_cnn},
      {"mlp", make_mlp},
  };
  return kNetworks;
}

std::shared_ptr<Network> make_network(const Architecture& architecture) {
  const DefaultGeneratorGuard guard;
  std::vector<std::string_view> names;
  for (const RegisteredNetwork& network : registered_networks()) {
    if (network.name == architecture.name) return network.make(architecture);
    names.push_back(network.name);
  }
  throw base::HostError(base::ExitCode::usage,
                        fmt::format("unknown architecture `{}`", architecture.name),
                        fmt::format("choose one of {}", fmt::join(names, ", ")));
}

double parameters_of(const Architecture& architecture) {
  // In the width, a layer is quadratic, linear or constant, so three small networks tell.
  double counts[3]{};
  for (std::size_t i = 0; i < 3; ++i) {
    Architecture small = architecture;
    small.width = static_cast<std::int64_t>(i) + 1;
    for (const at::Tensor& parameter : make_network(small)->parameters())
      counts[i] += static_cast<double>(parameter.numel());
  }
  const double steps = static_cast<double>(architecture.width) - 1;
  return counts[0] + steps * (counts[1] - counts[0]) +
         steps * (steps - 1) / 2 * (counts[2] - 2 * counts[1] + counts[0]);
}

}  // namespace backstop::engine
