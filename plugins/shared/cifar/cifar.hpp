// Reads CIFAR-10 and CIFAR-100, which differ in their file names, their labels and little else, in
// the binary or the Python version.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backstop/dataset.hpp"
#include "batch.hpp"
#include "shared/files/official.hpp"

namespace backstop::cifar {

struct OfficialFile {
  std::string_view binary_name, binary_md5;
  std::string_view python_name, python_md5;
  Split split;
  std::int64_t images;
  std::array<std::int64_t, 10> first_labels;  ///< identify the official file
};

struct Description {
  std::string_view binary_archive;  ///< "cifar-10-binary.tar.gz"
  std::string_view python_archive;
  std::string_view binary_folder;  ///< what the archive unpacks to
  std::string_view python_folder;
  std::string_view meta, meta_md5;  ///< class names in the Python version; not read
  std::span<const OfficialFile> files;
  LabelFormat label;
};

class Reader {
 public:
  /// Looks for the binary version, then for the Python version, in `root` and in the folder below
  /// it that the version's archive unpacks to.
  Reader(const std::filesystem::path& root, const Description& description);

  /// Reads the files of a split. Those of the other split are checked too: each file must exist,
  /// differ from the others and not be a different official file. Throws EnvironmentError.
  files::Samples load(Services& services, Split split) const;
  /// What Dataset::files does.
  void name_files(Split split, FileSink& sink) const;

 private:
  [[nodiscard]] std::vector<Batch> open() const;
  void check_identities(const std::vector<Batch>& batches) const;
  [[nodiscard]] std::string_view name(const OfficialFile& file) const;

  const Description& description_;
  Version version_ = Version::binary;
  std::filesystem::path folder_;
  std::string unpack_again_;
  files::DataFiles files_;
};

}  // namespace backstop::cifar
