#pragma once

#include "ATen/core/Tensor.h"

namespace at {

Tensor full_like(const Tensor& self, std::int64_t value);

}  // namespace at
