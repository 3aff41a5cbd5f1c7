// The one door to all formats of model files.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "host/engine/formats/input_file.hpp"
#include "host/engine/formats/model_header.hpp"
#include "host/engine/formats/zip_archive.hpp"

namespace backstop::engine {

/// A model's file that is open. All functions throw HostError(environment) that names the file.
class ModelSource {
 public:
  /// Reads the header. Refuses a file of another kind with what it is and the way to a format that
  /// is read.
  explicit ModelSource(const std::filesystem::path& path);

  [[nodiscard]] const ModelHeader& header() const { return header_; }
  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }

  /// The bytes of header().storages[storage].
  [[nodiscard]] std::string bytes(std::size_t storage) const;

  /// Writes a copy of the file in which these storages have other bytes, of the same size. Written
  /// whole and renamed into place, so that `output` may be the path of this file.
  void write_copy(const std::filesystem::path& output,
                  std::map<std::size_t, std::string> storages) const;

 private:
  InputFile file_;
  std::optional<ZipArchive> zip_;  ///< of checkpoints and TorchScript
  ModelHeader header_;
};

/// The header alone: names, shapes and dtypes of the tensors, in a time that does not depend on their
/// size.
ModelHeader read_model_header(const std::filesystem::path& path);

}  // namespace backstop::engine
