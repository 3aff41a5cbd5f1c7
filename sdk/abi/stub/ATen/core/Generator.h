#pragma once

namespace at {

struct Generator;

}  // namespace at
