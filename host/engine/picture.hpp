// PNG pictures of what an attack does.
#pragma once

#include <filesystem>

#include <ATen/core/Tensor.h>

namespace backstop::host {

/// Three rows of equally many images: clean, triggered, and their difference, amplified so that its
/// largest value is white. `clean` and `triggered`: uint8 [n, C, H, W]. Small images are enlarged.
void write_trigger_picture(const std::filesystem::path& path, const at::Tensor& clean,
                           const at::Tensor& triggered);

}  // namespace backstop::host
