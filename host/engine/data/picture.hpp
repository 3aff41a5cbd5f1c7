// PNG pictures that show what an attack does and what a dataset contains.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace backstop::engine {

/// Writes `image`, uint8 [C, H, W], gray or color, at its own size.
void write_image(const std::filesystem::path& path, const at::Tensor& image);

/// One row of a contact sheet.
struct SheetRow {
  std::string name;
  at::Tensor images;  ///< uint8 [k, C, H, W]; k may be 0; H and W are the same in all rows
};

/// Writes the rows below each other under `title`, each preceded by its name. Small images are
/// enlarged to at most `side` pixels; the caller has to shrink large ones.
void write_contact_sheet(const std::filesystem::path& path, const std::string& title,
                         const std::vector<SheetRow>& rows, std::int64_t side = 64);

/// Writes a contact sheet of three rows: clean images, triggered images and their difference,
/// amplified so that its largest value is white. `clean` and `triggered`: uint8 [n, C, H, W].
void write_trigger_picture(const std::filesystem::path& path, const std::string& title,
                           const at::Tensor& clean, const at::Tensor& triggered);

}  // namespace backstop::engine
