#pragma once

#include "ATen/core/Generator.h"
#include "ATen/core/Tensor.h"

namespace at {

Tensor randperm(std::int64_t n, Generator& generator);

}  // namespace at
