#include "host/engine/run/model_path.hpp"

#include <ATen/ATen.h>

#include "host/engine/plugins/stage_context.hpp"

namespace backstop::engine {

NamedTensors between(const NamedTensors& a, const NamedTensors& b, double t) {
  NamedTensors point;
  for (const auto& [name, end] : b)
    // The ends themselves, to the last bit.
    point.emplace_back(name, t == 1 || !end.is_floating_point()
                                 ? end
                                 : tensor_named(a, name).mul(1 - t).add(end, t));
  return point;
}

}  // namespace backstop::engine
